"""Whole jobs killed in the workflow, which starts them again; and Snakemake itself.

A short version runs with the other tests, the full one with `make faults`.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from aimed import PARTS
from mlflow.tracking import MlflowClient
from resumed import Resumed, newest_state

from aent.config import load
from aent.tracking import score_metrics

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests/config.yaml"
STACKS = Path(__file__).with_name("stacks")
STEPS, SAVE_EVERY = 160, 8
CHANGES = (
    f"settings={{toy: {{trainer: {{steps: {STEPS}, save_every: {SAVE_EVERY}, state_every: 1}}}}}}"
)
RUN = load(CONFIG).results / "toy/aent/seed0"
TRAINED = str(RUN / "metrics.parquet")
SCORED = str(RUN / f"scores/step-{STEPS}.json")
BOTTOMS = (" in <module>\n", " in _bootstrap\n", "  ...\n")
"""How a stack ends: the main thread's, another one's (it may get the signal), a very deep one."""
AIMS = ("sampling", "update", "metric flush", "state", "checkpoint")
# A frame of a stack -> what the process was at.
FRAMES = {
    (owner.__module__.rpartition(".")[2], name): part
    for part, (owner, names) in PARTS.items()
    for name in names
} | {("runner", "evaluate_checkpoints"): "scoring"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


class Workflow:
    """Snakemake in a folder of its own, and the scripts of its jobs."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.run = folder / RUN
        self.stacks = folder / "stacks"
        self.stacks.mkdir()

    def start(self, target: str, *options: str) -> subprocess.Popen[str]:
        """Start Snakemake in a process group of its own; output goes to `output.txt`."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", str(self.folder), "--cores", "1", *options]
        command += ["--configfile", str(CONFIG), "--config", CHANGES, "--", target]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        watched = {"PYTHONPATH": str(STACKS), "AENT_TEST_STACKS": str(self.stacks)}
        with (self.folder / "output.txt").open("w") as output:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | watched | {"PATH": path, "HF_HUB_OFFLINE": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def finish(self, target: str, *options: str) -> None:
        """Run Snakemake to its end, which has to be a good one."""
        assert self.start(target, *options).wait() == 0, self.output()[-4000:]

    def output(self) -> str:
        """What the last Snakemake said."""
        return (self.folder / "output.txt").read_text()

    def unlock(self) -> None:
        """Remove the lock that a killed Snakemake left."""
        self.finish(TRAINED, "--unlock")

    def job(self, script: str, snakemake: subprocess.Popen[str]) -> int | None:
        """Wait for a job's process and return its number; None when Snakemake ended before."""
        while snakemake.poll() is None:
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and self._is_job(entry, script):
                    return int(entry.name)
            time.sleep(0.01)
        return None

    def _is_job(self, process: Path, script: str) -> bool:
        try:
            parts = (process / "cmdline").read_bytes().decode().split("\0")
            return parts[1].endswith(f".{script}.py") and process.joinpath("cwd").samefile(
                self.folder
            )
        except (OSError, IndexError):  # it has ended, or is another user's
            return False

    def part(self, pid: int) -> str:
        """What a job is at, from its stack a moment ago; "start" before its work has begun."""
        file = self.stacks / str(pid)
        try:
            seen, stack, asked = file.stat().st_size, "", -math.inf
            while not stack.endswith(BOTTOMS):
                # A thread that Python does not know may get the signal, and says nothing.
                if not stack and time.monotonic() > asked + 0.2:
                    os.kill(pid, signal.SIGUSR1)
                    asked = time.monotonic()
                if _gone(pid):
                    return "start"
                stack = file.read_bytes()[seen:].decode()
        except OSError:  # not that far, or ended
            return "start"
        frames = re.findall(r'/(\w+)\.py", line \d+ in (\w+)', stack)
        inside = [FRAMES[frame] for frame in frames if frame in FRAMES]
        began = ("trainer", "_take_steps") in frames
        return inside[0] if inside else "between" if began else "start"

    def rows(self) -> int:
        """Complete lines of the metrics log."""
        path = self.run / "state/metrics.jsonl"
        try:
            return path.read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def lost(self) -> int:
        """Steps that are in the log and in no state."""
        return self.rows() - newest_state(self.run)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal and wait for the end; returns whether there was a process to end."""
    alive = not _gone(pid)
    if alive:
        os.kill(pid, number)
    while not _gone(pid):
        time.sleep(0.01)
    return alive


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    """A folder in which the run was trained once, undisturbed, and moved away."""
    workflow = Workflow(tmp_path_factory.mktemp("workflow"))
    workflow.finish(TRAINED)
    shutil.move(workflow.run, workflow.folder / "undisturbed")
    return workflow


@pytest.fixture
def fresh(workflow):
    """The folder without the run."""
    shutil.rmtree(workflow.run, ignore_errors=True)
    return workflow


def _let_train(workflow, job, steps, seconds=math.inf):
    """Wait until the job has taken some steps, some time has passed, or it has ended."""
    start, end = workflow.rows(), time.monotonic() + seconds
    while not _gone(job) and workflow.rows() < start + steps and time.monotonic() < end:
        time.sleep(0.001)


def _aim(workflow, job, part):
    """Wait until the job is seen at a part, and return it; what it is at after some steps else."""
    end = workflow.rows() + (SAVE_EVERY + 1 if part == "checkpoint" else 3)
    while (seen := workflow.part(job)) != part and workflow.rows() < end and not _gone(job):
        time.sleep(0.0005)
    return seen


def _check_mlflow(workflow):
    client = MlflowClient(f"sqlite:///{workflow.folder / RUN.parents[2]}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("toy").experiment_id
    [run] = client.search_runs([experiment], "attributes.run_name = 'aent/0'")
    frame = pd.read_parquet(workflow.run / "metrics.parquet").set_index("step")
    expected = {name: list(frame[name].items()) for name in frame}
    for path in (workflow.run / "scores").glob("step-*.json"):
        score = json.loads(path.read_text())
        for name, value in score_metrics(score).items():
            expected.setdefault(name, []).append((score["step"], value))
    for name, points in expected.items():
        held = client.get_metric_history(run.info.run_id, name)
        assert sorted((p.step, p.value) for p in held) == sorted(points), name


def test_killed_training_jobs(fresh, same_outputs):
    """Some at any moment of the job's life, imports included; the others in parts of a step."""
    dice, lost, hit, starts, kills = random.Random("jobs"), [], Counter(), 0, 20
    resumed = Resumed(fresh.run, fresh.output)
    snakemake = fresh.start(TRAINED, "--retries", str(kills + 1))
    for number in range(kills):
        job = fresh.job("train_policy", snakemake)
        if job is None:
            break
        starts += 1
        if number % 6 == 5:
            _let_train(fresh, job, 2, seconds=dice.uniform(0, 6))
            hit[fresh.part(job)] += 1
        else:
            # Not while it imports: a stack that is being built cannot be read.
            _let_train(fresh, job, dice.randint(1, 2))
            hit[_aim(fresh, job, AIMS[number % 6])] += 1
        _kill(job, signal.SIGTERM if number == 1 else signal.SIGKILL)
        lost.append(fresh.lost())
        resumed.check()
    assert snakemake.wait() == 0, fresh.output()[-4000:]
    resumed.check(ended=True)
    print(f"{kills} training jobs killed: {dict(hit)}, steps to repeat {sum(lost)}")
    assert starts == kills
    # One aim may be missed on a busy machine: a part can be over before the signal arrives.
    assert len(set(AIMS) & set(hit)) >= len(AIMS) - 1
    assert max(lost) <= 1
    same_outputs(fresh.run, fresh.folder / "undisturbed")
    _check_mlflow(fresh)


def test_killed_snakemake_with_all_its_jobs(fresh, same_outputs):
    dice, lost, hit, kills = random.Random("snakemake"), [], Counter(), len(AIMS)
    resumed = Resumed(fresh.run, fresh.output)
    for number in range(kills):
        snakemake = fresh.start(TRAINED)
        job = fresh.job("train_policy", snakemake)
        assert job is not None, fresh.output()[-4000:]
        _let_train(fresh, job, dice.randint(1, 4))
        hit[_aim(fresh, job, AIMS[number])] += 1
        assert not _gone(job)
        os.killpg(snakemake.pid, signal.SIGKILL)
        snakemake.wait()
        _kill(job)
        lost.append(fresh.lost())
        resumed.check()
        fresh.unlock()
    print(f"Snakemake killed {kills} times: {dict(hit)}, steps to repeat {sum(lost)}")
    assert max(lost) <= 1
    assert fresh.rows() > 0
    fresh.finish(TRAINED)
    resumed.check(ended=True)
    same_outputs(fresh.run, fresh.folder / "undisturbed")
    _check_mlflow(fresh)


def _check_scores(ours, theirs):
    for step in range(SAVE_EVERY, STEPS + 1, SAVE_EVERY):
        paths = [run / f"scores/step-{step}.json" for run in (ours, theirs)]
        scores = [json.loads(path.read_text()) | {"seconds": 0} for path in paths]
        assert scores[0] == scores[1]
        details = [pd.read_parquet(path.with_suffix(".parquet")) for path in paths]
        pd.testing.assert_frame_equal(*details, check_exact=True)


def test_killed_evaluation_jobs(workflow):
    """Two during imports, the others within a second after scoring has begun."""
    workflow.finish(TRAINED)  # unless the test before did
    trained, scored = workflow.folder / "trained", workflow.folder / "scored"
    shutil.copytree(workflow.run, trained)
    dice, hit, kills = random.Random("evaluation"), Counter(), 5
    snakemake = workflow.start(SCORED, "--retries", str(kills + 1))
    for number in range(kills):
        job = workflow.job("evaluate_checkpoints", snakemake)
        assert job is not None, workflow.output()[-4000:]
        if number < kills // 2:
            time.sleep(dice.uniform(0, 5))
        else:
            while not _gone(job) and workflow.part(job) != "scoring":
                time.sleep(0.25)
            time.sleep(dice.uniform(0, 1))
        hit[workflow.part(job)] += 1
        assert _kill(job)
    assert snakemake.wait() == 0, workflow.output()[-4000:]
    print(f"{kills} evaluation jobs killed: {dict(hit)}")
    assert not (workflow.run / "state").exists()
    _check_mlflow(workflow)
    shutil.move(workflow.run, scored)
    shutil.move(trained, workflow.run)
    workflow.finish(SCORED)
    _check_scores(workflow.run, scored)
    shutil.rmtree(scored)
    shutil.rmtree(workflow.run)  # its state is gone


def test_a_job_that_outlives_its_snakemake(fresh, same_outputs):
    """As on a cluster: Snakemake is killed, its job lives on, and after --unlock comes another."""
    first = fresh.start(TRAINED)
    job = fresh.job("train_policy", first)
    _let_train(fresh, job, 1)
    os.kill(job, signal.SIGSTOP)  # it shall not end before we are done with it
    locked = fresh.start(TRAINED)
    assert locked.wait() == 1
    assert "Directory cannot be locked" in fresh.output()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    fresh.unlock()
    second = fresh.start(TRAINED)
    while second.poll() is None:  # slow, but alive: its heart beats
        os.kill(job, signal.SIGCONT)
        time.sleep(0.02)
        os.kill(job, signal.SIGSTOP)
        time.sleep(0.5)
    assert second.returncode == 1
    assert f"process {job} on" in fresh.output()
    os.kill(job, signal.SIGCONT)
    while not _gone(job):
        time.sleep(0.1)
    fresh.finish(TRAINED)
    same_outputs(fresh.run, fresh.folder / "undisturbed")
