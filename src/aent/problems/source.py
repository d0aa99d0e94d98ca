"""Where existing problems come from: local files, and the Hugging Face hub."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aent.config.data import FileProblems, HubProblems
from aent.hub import explain, is_refusal, known_commit
from aent.problems.record import ProblemError, check_columns, read_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Rows as they come, with where they come from."""

    where: str
    """For messages."""
    rows: Iterable[dict[str, Any]]
    commit: str | None = None
    """The hub's commit; None for files, and where the hub could not be asked."""


def read_source(config: FileProblems | HubProblems) -> Source:
    """Rows of local files, or of a data set of the hub.

    Raises:
        ProblemError: they cannot be had, are empty, or lack a column.
    """
    if isinstance(config, FileProblems):
        return Source(str(config.path), read_rows(config.path, config.columns))
    return _download(config)


def _download(config: HubProblems) -> Source:
    # Slow, and nothing else needs it.
    import datasets  # type: ignore[import-untyped]

    where = f"{config.id}@{config.revision}, split {config.split}"
    commit = _commit(config)
    try:
        data = datasets.load_dataset(
            config.id,
            name=config.subset,
            split=config.split,
            revision=commit or config.revision,
        )
    # Network, permission, missing data set (OSError); unknown subset or split (ValueError).
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise ProblemError(_reason(error, config, where)) from None
    check_columns(data.column_names, config.columns, where)
    if not len(data):
        raise ProblemError(f"{where}: empty, at least one record is needed")
    if config.records is not None and len(data) != config.records:
        log.warning(
            "%s: %d records, where %d are expected (records); has the data set changed?",
            where,
            len(data),
            config.records,
        )
    # What nobody asked for may be large: some data sets hold several worked solutions a problem.
    wanted = set(config.columns.model_dump().values())
    columns = [name for name in data.column_names if name in wanted]
    return Source(where, data.select_columns(columns), commit)


def _commit(config: HubProblems) -> str | None:
    """The commit that the revision means; None where only the cache can be asked.

    Raises:
        ProblemError: the hub refuses.
    """
    try:
        return known_commit(config.id, config.revision, "dataset")
    except OSError as error:
        if is_refusal(error):
            raise ProblemError(explain(error, config.id, config.revision, "dataset")) from None
        log.warning("the commit of %s@%s is unknown: %s", config.id, config.revision, error)
        return None


def _reason(error: Exception, config: HubProblems, where: str) -> str:
    if isinstance(error, ValueError):
        return f"{where}: cannot be loaded ({error}); check subset and split"
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    return explain(cause, config.id, config.revision, "dataset")
