"""Killed (SIGKILL) and terminated (SIGTERM) training runs end like undisturbed ones.

Processes are forked from one that has imported everything, so that kills hit training and not
imports; `test_snakemake.py` does the same to whole jobs.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pandas as pd
import pytest
from aimed import PARTS, count_calls, train_and_die, train_and_log
from mlflow.tracking import MlflowClient
from resumed import Resumed, newest_state

from aent.signals import STATUS
from aent.tracking import create_store

STEPS = {"steps": 50, "save_every": 10, "state_every": 1}


def _rows(output):
    """Complete lines of the metrics log."""
    try:
        return (output / "state/metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _await_rows(process, output, rows):
    """Wait until the log has so many rows, or the process ends; returns the time a step takes."""
    seen, at, step_s = _rows(output), time.monotonic(), 0.05
    while process.is_alive() and seen < rows:
        now = _rows(output)
        if now > seen:
            step_s, seen, at = (time.monotonic() - at) / (now - seen), now, time.monotonic()
        time.sleep(0.0005)
    return step_s


def _once_each(uri, run, output):
    """MLflow has one run of this name, and in it each step once, with the files' values."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(run.setting_name).experiment_id
    [mirrored] = client.search_runs([experiment])
    frame = pd.read_parquet(output / "metrics.parquet").set_index("step")
    for name in frame:
        points = client.get_metric_history(mirrored.info.run_id, name)
        held = sorted((point.step, point.value) for point in points)
        assert held == list(frame[name].items()), name


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("method", "kills", "mirrored"), [("aent", 20, False), ("ppo", 5, True)])
def test_killed_at_random_moments(
    toy, undisturbed, same_outputs, tmp_path, method, kills, mirrored
):
    run, output = toy.run(method, **STEPS), tmp_path / "run"
    uri = f"sqlite:///{tmp_path}/mlflow.db" if mirrored else None
    if uri:
        create_store(uri, tmp_path / "artifacts")
    dice, lost, log = random.Random(f"kills/{method}"), [], tmp_path / "log"
    log.touch()
    resumed = Resumed(output, log.read_text)
    for _ in range(kills):
        process = toy.start(run, output, uri, train_and_log, (log,))
        # A few steps on from where it stands, then anywhere within a step.
        step_s = _await_rows(process, output, _rows(output) + dice.randint(0, 4))
        time.sleep(dice.uniform(0, 1.2 * step_s))
        process.kill()
        process.join()
        lost.append(_rows(output) - newest_state(output))
        resumed.check()
    assert max(lost) <= 1  # rows without a state: a finished step that is repeated
    process = toy.start(run, output, uri, train_and_log, (log,))
    process.join()
    assert process.exitcode == 0
    resumed.check(ended=True)
    assert not list(output.rglob(".*.partial"))
    same_outputs(output, undisturbed(run))
    if uri:
        _once_each(uri, run, output)


@pytest.fixture(scope="module")
def short(toy):
    return toy.run("aent", steps=12, save_every=2, state_every=1)


@pytest.fixture(scope="module")
def counted(toy, short, tmp_path_factory):
    """A run's folder that nobody disturbed, and the function calls of each part."""
    output = tmp_path_factory.mktemp("counted") / "run"
    return output, count_calls(short, toy.model, toy.problems, output)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_killed_within_each_part(toy, short, counted, same_outputs, tmp_path, part):
    """Three times in one run, before calls drawn by lot; at most a step and a half go by each."""
    folder, calls = counted
    occasions = {"checkpoint": 6, "completions": 7, "metrics file": 1, "publishing": 1}.get(
        part, 12
    )
    most = max(calls[part] // occasions * 3 // 2, 1) if occasions > 1 else calls[part]
    output, dice, log = tmp_path / "run", random.Random(f"parts/{part}"), tmp_path / "log"
    log.touch()
    resumed = Resumed(output, log.read_text)
    for _ in range(3):
        number = dice.randint(1, most)
        process = toy.start(short, output, target=train_and_die, first=(log, part, number))
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert _rows(output) - newest_state(output) <= 1
        resumed.check()
    process = toy.start(short, output, target=train_and_log, first=(log,))
    process.join()
    resumed.check(ended=True)
    assert not list(output.rglob(".*.partial"))
    same_outputs(output, folder)


def test_killed_after_the_last_step_it_publishes_again(toy, undisturbed, same_outputs, tmp_path):
    """Snakemake removes the outputs of a killed job, also when they were complete."""
    run = toy.run("aent", steps=6, save_every=2, state_every=1)
    output, dice = tmp_path / "run", random.Random("publish")
    for _ in range(6):
        process = toy.start(run, output)
        while process.is_alive() and not (output / "metrics.parquet").exists():
            time.sleep(0.0005)
        time.sleep(dice.uniform(0, 0.05))
        process.kill()
        process.join()
        assert newest_state(output) == 6
        for path in ("metrics.parquet", "run.json", "completions.parquet"):
            (output / path).unlink(missing_ok=True)
    toy.train(run, output)
    same_outputs(output, undisturbed(run))


@pytest.mark.parametrize("moment", ["collect", "learn", "save", "publish"])
def test_sigterm_saves_the_step_and_ends_with_its_own_status(
    toy, undisturbed, same_outputs, tmp_path, monkeypatch, moment
):
    """Whatever it interrupts, although no state is due before the end."""
    from aent import trainer
    from aent.folder import RunFolder

    run = toy.run("aent", steps=6, save_every=3, state_every=100)
    output = tmp_path / "run"
    owner = RunFolder if moment == "publish" else trainer.Session
    original, calls = getattr(owner, moment), []

    def terminated(*arguments, **named):
        calls.append(moment)
        if len(calls) == (1 if moment in ("save", "publish") else 3):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, moment, terminated)
        with pytest.raises(SystemExit) as raised:
            toy.train(run, output)
    assert raised.value.code == STATUS
    assert newest_state(output) == {"collect": 2, "learn": 3, "save": 6, "publish": 6}[moment]
    assert not list(output.glob("lease-*"))
    toy.train(run, output)
    same_outputs(output, undisturbed(run))


def test_sigterm_to_a_process(toy, tmp_path):
    """The status that Slurm and Snakemake see."""
    run, output = toy.run("aent", steps=1000, state_every=1000), tmp_path / "run"
    process = toy.start(run, output)
    _await_rows(process, output, 3)
    process.terminate()
    process.join()
    assert process.exitcode == STATUS
    assert newest_state(output) == _rows(output)
