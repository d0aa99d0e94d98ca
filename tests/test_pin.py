"""Commits of what a configuration takes from the hub, asked of a server in the hub's place."""

from __future__ import annotations

import json
import re

import pytest

from aent.cli import main
from aent.config import ConfigError, load, parse
from aent.config.revisions import moving, repositories, with_commits
from aent.plan import make_plan, render

DATA, EXAM, MODEL = "1" * 40, "a1" * 20, "0e" * 20
COMMITS = {
    "/api/datasets/owner/data/revision/main": DATA,
    "/api/datasets/owner/exam/revision/v1.0": EXAM,
    f"/api/datasets/owner/exam/revision/{EXAM}": EXAM,
    "/api/models/owner/model/revision/main": MODEL,
}
TEXT = """\
# A comment that stays.
results: out
problems:
  train:
    kind: hub
    id: owner/data  # and so does this one
    records: 9
  test: {kind: hub, id: owner/exam, revision: "v1.0", records: 5}
  own: {kind: file, path: problems.jsonl}
models:
  base:
    kind: pretrained
    path: owner/model
    shape: {layers: 1, hidden: 8, intermediate: 8, heads: 1, kv_heads: 1, vocabulary: 9, tied: true}
settings:
  s: {model: base, problems: train, evaluation: {benchmarks: [test]}}
methods:
  grpo: {advantage: grpo, surrogate: ppo_clip}
tables:
  t: {kind: scores, title: T, settings: [s], methods: [grpo], seeds: [0]}
"""
PINNED = (
    TEXT.replace("this one\n", f"this one\n    revision: '{DATA}'\n")
    .replace('"v1.0"', EXAM)
    .replace("path: owner/model\n", f"path: owner/model\n    revision: {MODEL}\n")
)


@pytest.fixture
def hub(serve_hub):
    """Knows the commits above and nothing else."""

    def answer(path):
        if path in COMMITS:
            body = {"id": "owner/name", "sha": COMMITS[path]}
            return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()
        return 404, {"X-Error-Code": "RevisionNotFound"}, b""

    serve_hub(answer)


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(TEXT)
    return tmp_path / "study.yaml"


@pytest.mark.usefixtures("hub")
def test_commits_are_written_in_and_nothing_else_changes(file, capsys):
    assert main(["pin", "--config", "study.yaml"]) == 0
    assert file.read_text() == PINNED
    assert capsys.readouterr().out.splitlines() == [
        f"problems.train: owner/data at {DATA}, was main",
        f"problems.test: owner/exam at {EXAM}, was v1.0",
        f"models.base: owner/model at {MODEL}, was main",
    ]
    assert all(found.pinned for found in repositories(load(file)))
    assert [item.name for item in file.parent.iterdir()] == ["study.yaml"]


@pytest.mark.usefixtures("hub")
def test_a_commit_that_the_hub_does_not_know_is_told_and_nothing_is_written(file, capsys):
    wrong = PINNED.replace(EXAM, "b" * 40).replace(f"    revision: {MODEL}\n", "")
    file.write_text(wrong)
    assert main(["pin", "--config", "study.yaml"]) == 2
    told = capsys.readouterr().err
    assert re.search(rf"^problems\.test: owner/exam@{'b' * 40} cannot be had", told, re.MULTILINE)
    assert f"it has no revision '{'b' * 40}': see " in told
    assert file.read_text() == wrong


def test_an_unreachable_hub_is_told_and_nothing_is_written(file, hub_at, capsys):
    hub_at("http://127.0.0.1:9")  # nobody listens there
    assert main(["pin", "--config", "study.yaml"]) == 2
    assert "models.base: owner/model@main cannot be had (ConnectionError" in capsys.readouterr().err
    assert file.read_text() == TEXT


def test_a_source_that_is_spelled_elsewhere_is_left_to_its_owner(tmp_path):
    merged = TEXT.replace(
        "test: {kind: hub, id: owner/exam, ", "test: {<<: {kind: hub, id: owner/exam}, "
    ).replace('revision: "v1.0", ', "")
    (tmp_path / "study.yaml").write_text(merged)
    [found] = [f for f in repositories(load(tmp_path / "study.yaml")) if f.name == "test"]
    with pytest.raises(ConfigError, match=r"problems\.test is not spelled out in the file"):
        with_commits(merged, {found: EXAM})


def test_revisions_that_may_move_are_told_by_the_plan(file):
    told = [text for text in make_plan(load(file)).warnings if "may be another one" in text]
    assert told == moving(load(file))
    assert [text.split(":")[0] for text in told] == [
        "problems.train",
        "problems.test",
        "models.base",
    ]
    assert "WARNING problems.test: revision 'v1.0' of owner/exam" in render(make_plan(load(file)))
    file.write_text(PINNED)
    assert make_plan(load(file)).warnings == []


def test_what_no_run_needs_is_not_told(file):
    data = load(file).model_dump(mode="json")
    data["problems"]["spare"] = {"kind": "hub", "id": "owner/spare"}
    assert not any("spare" in text for text in moving(parse(data)))
