"""Two processes on one run: the second refuses, or takes over from a dead one."""

from __future__ import annotations

import os
import signal
import time

import pandas as pd
import pytest

from aent import lease
from aent.checkpoint import load_state
from aent.folder import RunFolder
from aent.lease import LeaseError

STEPS = {"steps": 12, "save_every": 6, "state_every": 1}


def _await(condition, process):
    while process.is_alive() and not condition():
        time.sleep(0.01)


def _steps(output):
    path = output / "state/metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _snapshot(output):
    return {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}


def test_the_second_refuses_and_the_first_is_unharmed(toy, tmp_path):
    # Long enough for a heartbeat of the first, which is what the second waits for.
    run, output = toy.run("aent", steps=300, save_every=300), tmp_path / "run"
    first = toy.start(run, output)
    _await(lambda: _steps(output) >= 2, first)
    with pytest.raises(LeaseError, match=rf"run: process {first.pid} on .* is writing"):
        toy.train(run, output)
    first.join()
    assert first.exitcode == 0
    assert pd.read_parquet(output / "metrics.parquet")["step"].tolist() == list(range(1, 301))


def test_a_frozen_first_is_overtaken_and_writes_nothing_when_it_wakes_up(
    toy, undisturbed, same_outputs, tmp_path, monkeypatch
):
    run, output = toy.run("aent", **STEPS), tmp_path / "run"
    first = toy.start(run, output)
    _await(lambda: _steps(output) >= 2, first)
    os.kill(first.pid, signal.SIGSTOP)
    monkeypatch.setattr(lease, "STALE_S", 1.0)
    toy.train(run, output)
    before = _snapshot(output)
    os.kill(first.pid, signal.SIGCONT)
    first.join()
    assert first.exitcode == 1
    assert _snapshot(output) == before
    same_outputs(output, undisturbed(run))


def test_the_state_of_a_new_training_is_not_discarded(toy, tmp_path):
    """As by an evaluation job of the old one that outlived its Snakemake."""
    old, output = toy.run("aent", **STEPS), tmp_path / "run"
    toy.train(old, output)
    new = toy.run("aent", steps=1000, save_every=1000, state_every=1)
    training = toy.start(new, output)
    _await(lambda: list(output.glob("state-other-*")) and _steps(output) >= 2, training)
    RunFolder(output).discard_state()
    assert _steps(output) >= 2
    training.kill()
    training.join()
    RunFolder(output).discard_state()  # nobody writes any more
    assert load_state(output / "state")["run_hash"] == new.hash


def test_the_state_of_a_repeated_training_is_not_discarded(toy, tmp_path):
    """The same run once more, killed half-way: run.json is the first one's, or already removed."""
    run, output = toy.run("aent", **STEPS), tmp_path / "run"
    toy.train(run, output)
    (output / "state/state-00000012.pt").unlink()
    RunFolder(output).discard_state()
    assert load_state(output / "state")["step"] == 11
    toy.train(run, output)
    described = (output / "run.json").read_text()
    (output / "run.json").unlink()
    RunFolder(output).discard_state()
    assert load_state(output / "state")["step"] == 12
    (output / "run.json").write_text(described)
    RunFolder(output).discard_state()
    assert not (output / "state").exists()
    assert not list(output.glob("lease-*"))


def test_two_runs_share_a_base_model(toy, undisturbed, same_outputs, tmp_path):
    before = _snapshot(toy.model)
    runs = [toy.run("aent", seed=seed, steps=6, save_every=3) for seed in (0, 1)]
    jobs = [toy.start(run, tmp_path / run.name) for run in runs]
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0]
    for run in runs:
        same_outputs(tmp_path / run.name, undisturbed(run))
    assert _snapshot(toy.model) == before
