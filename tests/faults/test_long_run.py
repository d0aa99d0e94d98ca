"""Thousands of steps: memory, step time and open files stay what they were, in every process."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from paced import Training

from aent.tracking import create_store

STEPS, SETTLED, WINDOW = 2000, 200, 100
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
ROLES = {"aent.mirror_worker": "mirror", "aent.verify_worker": "verifier"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def _look(trainer):
    """Role -> resident memory in KiB, open files and CPU seconds of its processes, added up."""
    found = {}
    for pid, command in _family(trainer).items():
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            files = len(os.listdir(f"/proc/{pid}/fd"))
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        named = [role for module, role in ROLES.items() if module in command]
        role = named[0] if named else "trainer" if pid == trainer else command
        memory = sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
        seen = (memory, files, TICK_S * (int(stat[11]) + int(stat[12])))
        found[role] = tuple(map(sum, zip(found.get(role, (0, 0, 0)), seen, strict=True)))
    return found


def _family(trainer):
    """A process and all that it started, and those started: process -> command line."""
    listed = subprocess.run(
        ["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    found = [line.split(maxsplit=2) for line in listed.splitlines()]
    commands = {int(pid): command for pid, _, command in found}
    parents = {int(pid): int(parent) for pid, parent, _ in found}
    family, before = {trainer}, 0
    while len(family) > before:
        before = len(family)
        family |= {pid for pid, parent in parents.items() if parent in family}
    return {pid: commands[pid] for pid in family if pid in commands}


@pytest.fixture(scope="module")
def long_run(toy, tmp_path_factory):
    """Looks at a run's processes, from step 200 to its end, and its metrics."""
    folder = tmp_path_factory.mktemp("long")
    database = folder / "mlflow.db"
    create_store(f"sqlite:///{database}", folder / "artifacts")
    uri, saves = f"sqlite:///{database}", {"save_every": STEPS // 2, "state_every": 10}
    training = Training(toy, folder / "run", uri, STEPS, **saves)
    training.until_mlflow_has_rows(database)
    training.allowed.value = STEPS
    looks = []
    while training.process.is_alive():
        if SETTLED <= (step := training.rows()) < STEPS:
            seen = _look(training.process.pid)
            looks += [{"step": step, "role": role, "seen": seen[role]} for role in seen]
        time.sleep(0.5)
    assert training.ends() == []
    looks = pd.DataFrame(looks)
    looks[["memory", "files", "cpu_s"]] = looks.pop("seen").tolist()
    return looks, pd.read_parquet(folder / "run" / "metrics.parquet")


@pytest.mark.parametrize("role", ["trainer", "mirror", "verifier"])
def test_a_process_does_not_grow(long_run, role):
    looks, _ = long_run
    assert set(looks["role"]) == {"trainer", "mirror", "verifier"}
    looks = looks[looks["role"] == role]
    # The verifier starts with the first answer that has a box, which comes late.
    settled = looks[len(looks) // 2 :] if role == "verifier" else looks
    before = settled["memory"][:5].median()
    growth = settled["memory"].max() / before - 1
    # A file that is being written counts for a moment; what is never closed adds up to the end.
    later = looks["files"][len(looks) // 2 :]
    tenth = max(1, len(looks) // 10)
    opened = later[-tenth:].median() - later[:tenth].median()
    print(f"{role}: memory {growth:+.2%} of {before / 1024:.0f} MB, ", end="")
    print(f"open files {opened:+g} of {later[:tenth].median():g}")
    assert growth < 0.05
    assert opened == 0


def _change(values):
    """How far the median of the second half is above that of the first, as a fraction."""
    half = len(values) // 2
    return values[half:].median() / values[:half].median() - 1


def test_a_step_takes_no_more_cpu_time(long_run):
    """Of the process that trains: wall time says how busy the machine was, too."""
    looks, _ = long_run
    seen = looks[looks["role"] == "trainer"]
    windows = seen.groupby(seen["step"] // WINDOW).first()
    drift = _change(windows["cpu_s"].diff()[1:] / windows["step"].diff()[1:])
    print(f"CPU time {drift:+.2%}")
    assert drift < 0.1


@pytest.mark.faults
def test_a_step_takes_no_longer(long_run):
    """In a run that has a core of its own."""
    _, metrics = long_run
    drift = _change(metrics["time/step_s"][SETTLED:])
    print(f"wall time {drift:+.2%}")
    assert drift < 0.1
