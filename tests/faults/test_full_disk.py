"""A full disk: the error names the path, nothing is torn, and with space again the run goes on."""

from __future__ import annotations

import json
import logging
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

from aent import checksums
from aent.analysis.findings import sheet, write_claims
from aent.analysis.report import write_report
from aent.analysis.style import save_figure
from aent.analysis.tables import Table, write_table
from aent.checkpoint import load_state
from aent.config import load, parse
from aent.files import StorageError
from aent.journal import read_journal
from aent.problems import Problem, load_problems, write_problems

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests/config.yaml"
STEPS = {"steps": 6, "save_every": 2, "state_every": 1}
SIZE_MB = 16


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    folder = tmp_path / "results"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _fill(folder, free):
    """Fill the disk with a file so that `free` bytes are left; returns the file."""
    filler = folder / "filler"
    space = os.statvfs(folder)
    with filler.open("wb") as file:
        file.write(bytes(space.f_bavail * space.f_frsize - free))
    return filler


# In KiB, from "not even the lease" to "all but the last checkpoint".
@pytest.mark.parametrize("free", [0, 4, 12, 64, 300, 500, 700, 900, 1100, 1300])
def test_a_full_disk(toy, undisturbed, same_outputs, small_disk, free):
    run, output = toy.run("aent", **STEPS), small_disk / "run"
    filler = _fill(small_disk, free * 1024)
    with pytest.raises(StorageError, match=re.escape(str(output))) as raised:
        toy.train(run, output)
    print(raised.value)
    _nothing_torn(output)
    filler.unlink()
    toy.train(run, output)
    same_outputs(output, undisturbed(run))


def test_full_when_a_run_is_published(toy, undisturbed, same_outputs, small_disk, monkeypatch):
    from aent.folder import RunFolder

    run, output = toy.run("aent", **STEPS), small_disk / "run"
    publish, fillers = RunFolder.publish, []

    def filled(*arguments):
        fillers.append(_fill(small_disk, 0))
        publish(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "publish", filled)
        with pytest.raises(StorageError, match=r"completions\.parquet: .* No space left"):
            toy.train(run, output)
    _nothing_torn(output)
    fillers[0].unlink()
    toy.train(run, output)
    same_outputs(output, undisturbed(run))


def _script(name, **given):
    """Run a script of the workflow as Snakemake does, on the toy configuration."""
    job = {"config": yaml.safe_load(CONFIG.read_text()), "log": [os.devnull], "threads": 1}
    script = str(ROOT / f"workflow/scripts/{name}.py")
    runpy.run_path(script, {"snakemake": SimpleNamespace(**job | given)})


def _write_problems(path, inputs):
    write_problems(path, [Problem(str(n), f"{n} + 1 ?", str(n + 1)) for n in range(100)])


def _write_table(path, inputs):
    cells = pd.DataFrame({"Method": ["AEnt"], "Score": ["0.5"]})
    write_table(Table("Title", cells, [("Setting", cells)], []), path.with_suffix(""))


def _write_report(path, inputs):
    data = yaml.safe_load(CONFIG.read_text())
    without_runs = {key: data[key] for key in ("problems", "models", "settings", "methods")}
    pd.DataFrame({"step": []}).to_parquet(inputs / "scores.parquet")
    write_report(parse(without_runs | {"results": str(inputs)}), path)


def _collect_scores(path, inputs):
    score = {"setting": "toy", "method": "base", "seed": None, "step": 0, "benchmarks": {}}
    (inputs / "step-0.json").write_text(json.dumps(score))
    given = SimpleNamespace(scores=[inputs / "step-0.json"])
    _script("collect_scores", input=given, output=[str(path)])


def _prepare_problems(path, inputs):
    output = SimpleNamespace(problems=str(path.with_suffix(".jsonl")), card=str(path))
    wildcards = SimpleNamespace(problems="easy")
    _script("prepare_problems", input=[], output=output, wildcards=wildcards)


def _create_model(path, inputs):
    write_problems(inputs / "train.jsonl", load_problems(load(CONFIG).problems["train"]))
    _script(
        "create_model",
        input=SimpleNamespace(problems=[str(inputs / "train.jsonl")]),
        output=SimpleNamespace(model=str(path.with_suffix("")), metrics=str(path)),
        wildcards=SimpleNamespace(model="tiny"),
    )


WRITERS = {
    "problems.jsonl": _write_problems,
    "table.csv": _write_table,
    "claims.csv": lambda path, inputs: write_claims(sheet([]), path.with_suffix("")),
    "figure.svg": lambda path, inputs: save_figure(Figure(), path.with_suffix("")),
    "report.html": _write_report,
    "scores.parquet": _collect_scores,
    "values.parquet": lambda path, inputs: _script("simulate_mdp", output=[str(path)]),
    "card.json": _prepare_problems,
    "model.json": _create_model,
}


@pytest.fixture
def _same_logging():
    """Scripts set logging up as if the process were theirs."""
    handlers, level, hook = logging.root.handlers[:], logging.root.level, sys.excepthook
    yield
    logging.root.handlers[:], sys.excepthook = handlers, hook
    logging.root.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.usefixtures("_same_logging")
@pytest.mark.parametrize("name", WRITERS)
def test_full_when_anything_else_is_written(small_disk, tmp_path, name):
    inputs, path = tmp_path / "inputs", small_disk / "made" / name
    inputs.mkdir()
    WRITERS[name](path, inputs)
    whole = _contents(path.parent)
    pages = sum(-(-len(content) // 4096) for content in whole.values())
    for free in sorted({0, pages // 3, pages // 2, pages - 1}):  # the last: all but the last page
        shutil.rmtree(path.parent)
        filler = _fill(small_disk, free * 4096)
        with pytest.raises(StorageError, match=f"{path.parent}/.*No space left"):
            WRITERS[name](path, inputs)
        assert _contents(path.parent).items() < whole.items()
        filler.unlink()
    WRITERS[name](path, inputs)
    assert _contents(path.parent).keys() == whole.keys()


def _contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_full_in_the_workflow(small_disk, snakemake):
    made = [f"results/test/{name}" for name in ("problems/easy.json", "mdp/values.parquet")]
    options = ["--cores", "1", "--keep-going", "--configfile", str(CONFIG), "--config"]
    command = [*options, f"results={small_disk.name}/test", "--", *made]
    filler = _fill(small_disk, 0)
    done = snakemake(*command, folder=small_disk.parent)
    assert done.returncode == 1
    for path in ("results/test/problems/easy.jsonl", made[1]):
        assert re.search(f"{path}: cannot be written: .*No space left on device", done.stdout)
        assert not (small_disk.parent / path).exists()
    filler.unlink()
    done = snakemake(*command, folder=small_disk.parent)
    assert done.returncode == 0, done.stdout[-4000:]
    assert all((small_disk.parent / path).exists() for path in made)


def _nothing_torn(output):
    """Whatever has its final name is whole, and no half file is left."""
    assert not list(output.rglob(".*.partial"))
    for path in output.rglob("*.parquet"):
        pd.read_parquet(path)
    for path in output.rglob("step-*"):
        assert checksums.damage(path) is None
    for state in output.rglob("state-*.pt"):
        assert load_state(state.parent) is not None
    for path in output.rglob("completions.jsonl"):
        assert path.read_text().count("\n") == len(read_journal(path))
