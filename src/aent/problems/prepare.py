"""From a configuration to a problem set: read, clean, shuffle, take; and count at each step."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aent.config.data import FileProblems, HubProblems, Problems, SyntheticProblems
from aent.problems.cleaning import Step, clean
from aent.problems.record import (
    IncompleteError,
    Problem,
    ProblemError,
    check_ids,
    to_problem,
)
from aent.problems.source import Source, read_source
from aent.problems.synthetic import generate


@dataclass(frozen=True)
class Prepared:
    """A problem set, and how it came to be."""

    problems: list[Problem]
    steps: list[Step]
    """From what the source held to what is left, in order."""
    commit: str | None = None
    """The hub's commit, where the set comes from there."""


def load_problems(config: Problems) -> list[Problem]:
    """The problems of a configuration that compares them with no other set.

    Raises:
        ProblemError: as `prepare_problems`.
    """
    return prepare_problems(config, {}).problems


def prepare_problems(
    config: Problems, others: Mapping[str, Iterable[Problem]], workers: int | None = None
) -> Prepared:
    """The problems that a configuration describes.

    Args:
        config: the problem set.
        others: the problem sets that its cleaning compares it with, by name.
        workers: processes that check answers, instead of the configuration's.

    Raises:
        ProblemError: they cannot be read or generated, or none is left; the message names the
            place.
    """
    if isinstance(config, SyntheticProblems):
        problems = generate(config)
        return Prepared(problems, [Step("generated", len(problems), 0)])
    source = read_source(config)
    problems, steps = complete(source, config)
    if config.cleaning:
        problems, more = clean(problems, config.cleaning, others, workers)
        steps += more
    if config.shuffle_seed is not None:
        random.Random(config.shuffle_seed).shuffle(problems)
    if config.limit is not None:
        steps.append(Step("taken", min(config.limit, len(problems)), 0))
        problems = problems[: config.limit]
    if not problems:
        counts = ", ".join(f"{step.name}: {step.left}" for step in steps)
        raise ProblemError(f"{source.where}: cleaning leaves nothing ({counts})")
    return Prepared(problems, steps, source.commit)


def complete(
    source: Source, config: FileProblems | HubProblems
) -> tuple[list[Problem], list[Step]]:
    """Records with problem and answer; with cleaning the others are dropped and counted.

    Raises:
        ProblemError: a record is not whole and nothing is cleaned, or is no record at all.
    """
    problems, count = [], 0
    for row in source.rows:
        try:
            problems.append(to_problem(row, count, config.columns, source.where))
        except IncompleteError:
            if config.cleaning is None:
                raise
        count += 1
    if config.cleaning is None or not config.cleaning.distinct:
        check_ids(problems, source.where)
    steps = [Step("read", count, 0)]
    if config.cleaning is not None:
        steps.append(Step("problem and answer", len(problems), count - len(problems)))
    return problems, steps
