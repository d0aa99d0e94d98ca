"""Filters of training problems: answers that can be verified, no repeats, nothing of a benchmark.

Every filter takes and gives problems in order, so that what is left depends on the source alone.
Time is linear in the problems: benchmarks are put into sets of texts and of runs of words, and each
problem is looked up there once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aent.config.data import Cleaning
from aent.problems.record import Problem
from aent.problems.text import normalise, runs
from aent.rewards import Verifier


@dataclass(frozen=True)
class Step:
    """What a filter left."""

    name: str
    left: int
    dropped: int
    by: dict[str, int] | None = None
    """Dropped by each other set; a problem that stands in several counts for each."""


class Benchmarks:
    """Index of the problems that a training set must not hold.

    A run of words that stands in several benchmark problems is a phrase of the trade ("where m and
    n are relatively prime positive integers, find m + n") and gives no problem away.
    """

    def __init__(self, sets: Mapping[str, Iterable[Problem]], ngram: int | None):
        """Index whole normalised texts, and the runs of `ngram` words where a number is given."""
        self.ngram = ngram
        self._names: dict[str, list[str]] = {}  # of the sets that hold a normalised text
        owners: dict[tuple[str, ...], str | None] = {}  # the only text with a run
        for name, problems in sets.items():
            for problem in problems:
                text = normalise(problem.problem)
                holders = self._names.setdefault(text, [])
                if name not in holders:
                    holders.append(name)
                for run in set(runs(problem.problem, ngram)) if ngram else ():
                    owners[run] = text if owners.get(run, text) == text else None
        self._owners = {run: text for run, text in owners.items() if text is not None}
        self._runs = set(self._owners)

    def matches(self, text: str) -> list[str]:
        """Names of the sets that hold the text, or a run of its words."""
        found = dict.fromkeys(self._names.get(normalise(text), ()))
        # One look into a set, in C: nearly all problems end here.
        if self.ngram and not self._runs.isdisjoint(runs(text, self.ngram)):
            for run in runs(text, self.ngram):
                found |= dict.fromkeys(self._names[self._owners[run]] if run in self._runs else ())
        return list(found)


def clean(
    problems: list[Problem],
    config: Cleaning,
    others: Mapping[str, Iterable[Problem]],
    workers: int | None = None,
) -> tuple[list[Problem], list[Step]]:
    """Apply the filters that the configuration asks for.

    Args:
        problems: in the order of the source.
        config: the filters.
        others: the problem sets of `unlike`, by name.
        workers: processes that check answers, instead of the configuration's.

    Returns:
        What is left, and a step a filter.
    """
    steps = []
    if config.verifiable:
        kept = verifiable(problems, config.timeout_s, workers or config.workers)
        steps.append(Step("answer verifies", len(kept), len(problems) - len(kept)))
        problems = kept
    if config.distinct:
        kept = distinct(problems)
        steps.append(Step("not a repeat", len(kept), len(problems) - len(kept)))
        problems = kept
    if config.unlike:
        kept, by = unlike(problems, Benchmarks({n: others[n] for n in config.unlike}, config.ngram))
        steps.append(Step("not in a benchmark", len(kept), len(problems) - len(kept), by))
        problems = kept
    return problems, steps


def verifiable(problems: list[Problem], timeout_s: float, workers: int) -> list[Problem]:
    """Problems whose answer math-verify reads and finds equal to itself."""
    with Verifier(workers, timeout_s) as verifier:
        sound = verifier.sound([problem.answer for problem in problems])
    return [problem for problem, kept in zip(problems, sound, strict=True) if kept]


def distinct(problems: list[Problem]) -> list[Problem]:
    """Without problems whose id or normalised text occurred before."""
    ids: set[str] = set()
    texts: set[str] = set()
    kept = []
    for problem in problems:
        text = normalise(problem.problem)
        if problem.id not in ids and text not in texts:
            kept.append(problem)
        ids.add(problem.id)
        texts.add(text)
    return kept


def unlike(problems: list[Problem], benchmarks: Benchmarks) -> tuple[list[Problem], dict[str, int]]:
    """Problems that stand in no benchmark, and how many each benchmark has dropped."""
    kept = []
    by: dict[str, int] = {}
    for problem in problems:
        found = benchmarks.matches(problem.problem)
        if not found:
            kept.append(problem)
        for name in found:
            by[name] = by.get(name, 0) + 1
    return kept, by
