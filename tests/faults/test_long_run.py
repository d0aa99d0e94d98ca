"""Thousands of steps: memory, step time and open files stay what they were."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pandas as pd
import pytest

from aent.tracking import create_store

STEPS, SETTLED, WINDOW = 2000, 200, 100
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def _look(pid):
    """Resident memory in KiB, open files and CPU seconds of a process; None when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        files = len(os.listdir(f"/proc/{pid}/fd"))
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return None
    memory = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
    return (*memory, files, TICK_S * (int(user) + int(system))) if memory and files else None


def _change(values):
    """How far the median of the second half is above that of the first, as a fraction."""
    half = len(values) // 2
    return values[half:].median() / values[:half].median() - 1


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_long_run(toy, tmp_path):
    run = toy.run("aent", steps=STEPS, save_every=STEPS // 2, state_every=10)
    output, uri = tmp_path / "run", f"sqlite:///{tmp_path}/mlflow.db"
    create_store(uri, tmp_path / "artifacts")
    process = toy.start(run, output, uri)
    log, looks = output / "state/metrics.jsonl", []
    while process.is_alive():
        done = log.read_bytes().count(b"\n") if log.exists() else 0
        if SETTLED <= done < STEPS and (seen := _look(process.pid)):
            looks.append((done, *seen))
        time.sleep(0.1)
    assert process.exitcode == 0
    looks = pd.DataFrame(looks, columns=["step", "memory", "files", "cpu_s"])
    growth = looks["memory"].max() / looks["memory"][:5].median() - 1
    # CPU time, the mirror's thread included: wall time says how busy the machine was, too.
    windows = looks.groupby(looks["step"] // WINDOW).first()
    drift = _change(windows["cpu_s"].diff()[1:] / windows["step"].diff()[1:])
    wall = _change(pd.read_parquet(output / "metrics.parquet")["time/step_s"][SETTLED:])
    # MLflow's store and the verifier's worker are opened when first needed, and a file that is
    # being written counts for a moment; what is never closed adds up to the end.
    later = looks["files"][len(looks) // 2 :].reset_index(drop=True)
    tenth = max(1, len(looks) // 10)
    opened = later[-tenth:].median() - later[:tenth].median()
    print(f"memory {growth:+.2%} of {looks['memory'][:5].median() / 1024:.0f} MB, ", end="")
    print(f"step {drift:+.2%} (CPU), {wall:+.2%} (wall), open files {opened:+g} of {later[0]}")
    assert growth < 0.05
    assert opened == 0
    assert drift < 0.1
