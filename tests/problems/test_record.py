import json
import os
from pathlib import Path

import pandas as pd
import pytest

from aent.problems import Problem, ProblemError, read_problems, write_problems

BENCHMARKS = Path(
    os.environ.get("AENT_BENCHMARKS", Path(__file__).parents[2] / "../shared/benchmarks")
)
SIZES = {"aime24": 30, "amc23": 40, "math_500": 500, "minerva": 272, "olympiadbench": 675}


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(**changes: object) -> dict[str, object]:
    return {"id": "a", "problem": "1 + 1 ?", "answer": "2", **changes}


def test_records_survive_a_file(tmp_path: Path) -> None:
    problems = [
        Problem("a", "1 + 1 ?", "2"),
        Problem("b", "line\u2028separator \\(x\\) é", "\\frac{1}{2}", "So \\boxed{x}.", "hard"),
        Problem("c", "3 ?", "3", level=2),
    ]
    write_problems(tmp_path / "new" / "p.jsonl", problems)
    assert read_problems(tmp_path / "new" / "p.jsonl") == problems


def test_parquet_and_jsonl_agree(tmp_path: Path) -> None:
    rows = [row(level=1), row(id="b", answer="7", level=None)]
    pd.DataFrame(rows).astype({"level": "Int64"}).to_parquet(tmp_path / "p.parquet")
    expected = read_problems(lines(tmp_path / "p.jsonl", *rows))
    assert read_problems(tmp_path / "p.parquet") == expected
    assert expected[1] == Problem("b", "1 + 1 ?", "7")


def test_numbers_become_text(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", row(id=7, answer=204), row(id=8, answer=["1.5"]))
    assert [(p.id, p.answer) for p in read_problems(path)] == [("7", "204"), ("8", "1.5")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "empty, at least one record"),
        ([row(), [1]], "line 2 is a list, a JSON object is needed"),
        ([row(), row(id="b", answer=None)], "row 2: without an answer .column 'answer'"),
        ([row(answer="  ")], "row 1: without an answer"),
        ([row(answer=["1", "2"])], "row 1: one value is needed, found 2"),
        ([row(answer={"x": 1})], "row 1: text or a number is needed"),
        ([row(problem="")], "row 1: without a problem"),
        ([row(id="")], "row 1: without an id"),
        ([row(), row(id="b"), row()], "row 3: id 'a' already used in row 1"),
        ([{"id": "a", "question": "?"}], r"no column 'problem' .*found are \['id', 'question'\]"),
    ],
)
def test_bad_records_name_file_and_row(tmp_path: Path, rows: list[object], message: str) -> None:
    path = lines(tmp_path / "bad.jsonl", *rows)
    with pytest.raises(ProblemError, match=message) as raised:
        read_problems(path)
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b'{"id": "a"}\n{"id": \n', "line 2 is no JSON"),
        ("p.jsonl", b"\xff\xfe\x00", "cannot be read"),
        ("p.parquet", b"not a parquet file", "cannot be read"),
        ("p.csv", b"id\n", r"suffix '.csv'; allowed are \['.jsonl', '.parquet'\]"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ProblemError, match=message):
        read_problems(tmp_path / name)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"p\.jsonl: cannot be read: .*No such file"):
        read_problems(tmp_path / "p.jsonl")


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_real_benchmarks(name: str, size: int) -> None:
    path = BENCHMARKS / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is missing; AENT_BENCHMARKS names the folder")
    problems = read_problems(path)
    assert len(problems) == size
    assert all(problem.answer.strip() for problem in problems)
