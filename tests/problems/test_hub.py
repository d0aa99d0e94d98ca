import json
from pathlib import Path

import pytest

from aent.config.data import FileProblems, HubProblems
from aent.problems import ProblemError, load_problems, prepare_problems

ROWS = [
    {"question": f"{n} + 1 ?", "working": f"So \\boxed{{{n + 1}}}.", "type": "sum", "key": f"k{n}"}
    for n in range(20)
]
COLUMNS = {"problem": "question", "answer": None, "solution": "working", "level": "type"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of the hub's layout, which `datasets` opens like one from the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    data = tmp_path / "owner" / "sums"
    data.mkdir(parents=True)
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return data


def file(path: Path, **changes: object) -> FileProblems:
    return FileProblems.model_validate({"kind": "file", "path": path, **changes})


def hub(**changes: object) -> HubProblems:
    data = {"kind": "hub", "id": "owner/sums", "columns": COLUMNS, **changes}
    return HubProblems.model_validate(data)


def test_file_with_other_columns(folder: Path) -> None:
    problems = load_problems(file(folder / "train.jsonl", columns=COLUMNS))
    assert [problem.answer for problem in problems] == [str(n + 1) for n in range(20)]
    assert (problems[3].id, problems[3].problem, problems[3].level) == ("3", "3 + 1 ?", "sum")
    assert problems[3].solution == "So \\boxed{4}."


def test_shuffle_then_limit(folder: Path) -> None:
    columns = {**COLUMNS, "id": "key"}

    def ids(**changes: object) -> list[str]:
        config = file(folder / "train.jsonl", columns=columns, **changes)
        return [problem.id for problem in load_problems(config)]

    assert ids(limit=3) == ["k0", "k1", "k2"]
    assert ids(shuffle_seed=1, limit=5) == ids(shuffle_seed=1, limit=5) == ids(shuffle_seed=1)[:5]
    assert ids(shuffle_seed=1) != ids(shuffle_seed=2)
    assert sorted(ids(shuffle_seed=1)) == sorted(ids())


def test_solution_without_a_box(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"question": "?", "working": "4", "type": "x"}\n')
    with pytest.raises(ProblemError, match=r"row 1: without an answer .*boxed.* 'working'"):
        load_problems(file(tmp_path / "p.jsonl", columns=COLUMNS))


def test_hub_data_set(folder: Path) -> None:
    problems = load_problems(hub(limit=4, shuffle_seed=0))
    same = load_problems(file(folder / "train.jsonl", columns=COLUMNS, limit=4, shuffle_seed=0))
    assert problems == same


@pytest.mark.usefixtures("folder")
def test_a_pinned_commit_is_recorded_where_the_hub_cannot_be_asked() -> None:
    assert prepare_problems(hub(revision="a1" * 20), {}).commit == "a1" * 20
    assert prepare_problems(hub(), {}).commit is None  # nobody knows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "exam"}, "owner/sums@main, split exam: cannot be loaded"),
        ({"id": "owner/absent"}, "owner/absent@main cannot be had"),
        ({"columns": {"problem": "text"}}, r"no column 'text' for problem; found are \['question'"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_hub_errors(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        load_problems(hub(**changes))


@pytest.mark.usefixtures("folder")
def test_unreachable_hub_says_what_to_do() -> None:
    with pytest.raises(ProblemError, match=r"hf download owner/absent .*kind: file"):
        load_problems(hub(id="owner/absent"))


@pytest.mark.usefixtures("folder")
def test_another_size_than_expected_is_told(caplog: pytest.LogCaptureFixture) -> None:
    load_problems(hub(records=21))
    assert "20 records, where 21 are expected" in caplog.text


def test_a_folder_of_parts(folder: Path, tmp_path: Path) -> None:
    (folder / "train-1.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    (folder / "notes.txt").write_text("not data")
    assert len(load_problems(file(folder, columns=COLUMNS))) == 21
    (tmp_path / "bare").mkdir()
    with pytest.raises(ProblemError, match="bare: a folder without"):
        load_problems(file(tmp_path / "bare", columns=COLUMNS))
