"""Problems from files and from the Hugging Face hub."""

from __future__ import annotations

import random
from typing import Any

from aent.config.data import FileProblems, HubProblems
from aent.problems.record import Problem, ProblemError, read_rows, to_problems


def load_file(config: FileProblems) -> list[Problem]:
    """Problems of a local .jsonl or .parquet file.

    Raises:
        ProblemError: as `read_rows` and `to_problems`.
    """
    problems = to_problems(read_rows(config.path), config.columns, str(config.path))
    return _choose(problems, config)


def load_hub(config: HubProblems) -> list[Problem]:
    """Problems of a Hugging Face data set, at a pinned revision.

    Raises:
        ProblemError: the data set cannot be had, is empty, or as `to_problems`.
    """
    where = f"{config.id}@{config.revision}, split {config.split}"
    rows = _download(config, where)
    if not rows:
        raise ProblemError(f"{where}: empty, at least one record is needed")
    return _choose(to_problems(rows, config.columns, where), config)


def _download(config: HubProblems, where: str) -> list[dict[str, Any]]:
    # Slow, and nothing else needs it.
    import datasets  # type: ignore[import-untyped]

    try:
        data = datasets.load_dataset(
            config.id, name=config.subset, split=config.split, revision=config.revision
        )
    # Network, permission, missing data set (OSError); unknown subset or split (ValueError).
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise ProblemError(
            f"{where}: cannot be loaded ({type(error).__name__}: {error}). Check id, revision, "
            "subset and split; without network, fetch it where there is one with `hf download "
            f"{config.id} --repo-type dataset --revision {config.revision}` and bring the cache "
            "(HF_HOME), or put the records in a local file and use kind: file"
        ) from None
    return list(data)


def _choose(problems: list[Problem], config: FileProblems | HubProblems) -> list[Problem]:
    """The shuffle and the limit of the configuration."""
    if config.shuffle_seed is not None:
        random.Random(config.shuffle_seed).shuffle(problems)
    return problems[: config.limit]
