"""The record of a problem, and files of records: jsonl or parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from aent.boxed import written_answer
from aent.config.data import Columns
from aent.files import replacing


class ProblemError(ValueError):
    """Problems cannot be read or generated; the message names the place."""


class IncompleteError(ProblemError):
    """A record has no problem, no single answer or no id."""


@dataclass(frozen=True)
class Problem:
    """A problem with a checkable answer."""

    id: str
    problem: str
    answer: str
    solution: str | None = None
    """Worked solution ending in `\\boxed{answer}`."""
    level: int | str | None = None
    """Difficulty: the tier of a synthetic problem, whatever the source says of a real one."""


def read_problems(path: Path) -> list[Problem]:
    """Read a .jsonl or .parquet file of records {id, problem, answer, solution?, level?}.

    Raises:
        ProblemError: unreadable or empty file, missing column or value, or an id that occurs twice.
    """
    rows = read_rows(path)
    found = {name for row in rows for name in row}
    optional = {name: name for name in ("solution", "level") if name in found}
    return to_problems(rows, Columns(id="id", **optional), str(path))


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write records as jsonl, one a line, without the fields that are None.

    Raises:
        aent.files.StorageError: the disk is full or gone.
    """
    with replacing(Path(path)) as partial, partial.open("w", encoding="utf-8") as file:
        for problem in problems:
            record = {key: value for key, value in asdict(problem).items() if value is not None}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_rows(path: Path, columns: Columns | None = None) -> list[dict[str, Any]]:
    """Rows of a .jsonl or .parquet file, or of all such files in a folder, as dictionaries.

    Args:
        path: the file or folder.
        columns: what is wanted of them; of parquet files nothing else is read.

    Raises:
        ProblemError: another suffix, an unreadable or empty file, a line that is no JSON object, a
            column that is not there.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".jsonl", ".parquet"))
        if not files:
            raise ProblemError(f"{path}: a folder without .jsonl or .parquet files")
    return [row for file in files for row in _read_file(file, columns)]


def check_columns(found: Iterable[str], columns: Columns, where: str) -> None:
    """See that a source has the columns that it is said to have.

    Raises:
        ProblemError: one is missing.
    """
    names = list(found)
    for key, column in columns.model_dump().items():
        if column is not None and column not in names:
            raise ProblemError(
                f"{where}: no column {column!r} for {key}; found are {names}. If the source has "
                f"changed, name its column under columns.{key}, or pin an older revision"
            )


def _read_file(path: Path, columns: Columns | None) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".jsonl":
            rows = _read_jsonl(path)
            found = dict.fromkeys(name for row in rows for name in row)
        elif path.suffix == ".parquet":
            found = dict.fromkeys(pq.read_schema(path).names)
            wanted = set(columns.model_dump().values()) if columns else set(found)
            rows = pq.read_table(path, columns=[n for n in found if n in wanted]).to_pylist()
        else:
            raise ProblemError(
                f"{path}: suffix {path.suffix!r}; allowed are ['.jsonl', '.parquet']"
            )
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise ProblemError(f"{path}: cannot be read: {error}") from None
    if columns and found:
        check_columns(found, columns, str(path))
    if not rows:
        raise ProblemError(f"{path}: empty, at least one record is needed")
    return rows


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    # Not splitlines(): a JSON string may hold other line separators, such as U+2028.
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ProblemError(f"{path}: line {number} is no JSON: {error}") from None
            if not isinstance(row, dict):
                kind = type(row).__name__
                raise ProblemError(f"{path}: line {number} is a {kind}, a JSON object is needed")
            rows.append(row)
    return rows


def to_problems(rows: list[dict[str, Any]], columns: Columns, where: str) -> list[Problem]:
    """Records from a source's rows, all of which must be whole.

    Args:
        rows: at least one row.
        columns: which column holds which field. Without an id column the id is the row's number,
            from 0; without an answer column the answer is the last box of the solution.
        where: name of the source for error messages.

    Raises:
        ProblemError: missing column or value, or an id that occurs twice. Rows count from 1.
    """
    check_columns(dict.fromkeys(name for row in rows for name in row), columns, where)
    problems = [to_problem(row, n, columns, where) for n, row in enumerate(rows)]
    check_ids(problems, where)
    return problems


def check_ids(problems: list[Problem], where: str) -> None:
    """See that no id occurs twice.

    Raises:
        ProblemError: one does. Rows count from 1.
    """
    first: dict[str, int] = {}
    for n, problem in enumerate(problems, start=1):
        if problem.id in first:
            raise ProblemError(
                f"{where}: row {n}: id {problem.id!r} already used in row {first[problem.id]}"
            )
        first[problem.id] = n


def to_problem(row: dict[str, Any], n: int, columns: Columns, where: str) -> Problem:
    """The record of row `n`, from 0.

    Raises:
        IncompleteError: without a problem, an id, or a single answer.
        ProblemError: with a value that is neither text nor number.
    """
    place = f"{where}: row {n + 1}"
    solution = _text(row.get(columns.solution), place) if columns.solution else None
    if columns.answer is not None:
        answer = _text(row.get(columns.answer), place)
        source = f"column {columns.answer!r}"
    else:
        answer = written_answer(solution) if solution else None
        source = f"no closed \\boxed{{}} in column {columns.solution!r}"
    if not answer:
        raise IncompleteError(f"{place}: without an answer ({source})")
    problem = _text(row.get(columns.problem), place)
    if not problem:
        raise IncompleteError(f"{place}: without a problem (column {columns.problem!r})")
    name = _text(row.get(columns.id), place) if columns.id else str(n)
    if not name:
        raise IncompleteError(f"{place}: without an id (column {columns.id!r})")
    level = row.get(columns.level) if columns.level else None
    if level is not None and not isinstance(level, int):
        level = _text(level, place)
    return Problem(id=name, problem=problem, answer=answer, solution=solution, level=level)


def _text(value: Any, place: str) -> str | None:
    """A cell as text; None where it is missing or blank.

    Some data sets keep the answer as a list of one; a list of several has no single answer.
    """
    if isinstance(value, list | tuple):
        if len(value) > 1:
            raise IncompleteError(
                f"{place}: one value is needed, found {len(value)}: {value!r:.100}"
            )
        value = value[0] if value else None
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ProblemError(f"{place}: half of a surrogate pair in {value!r:.100}")
        return value.strip() or None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool | dict):
        raise ProblemError(f"{place}: text or a number is needed, found {value!r:.100}")
    return str(value)
