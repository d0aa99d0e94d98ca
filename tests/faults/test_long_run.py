"""Thousands of steps: memory, step time and open files stay what they were."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import pandas as pd
import pytest

from aent.tracking import create_store


def _resident(pid):
    """Resident memory in KiB; 0 when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def _open_files(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


STEPS, SETTLED = 2000, 200


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_a_long_run(toy, tmp_path):
    run = toy.run("aent", steps=STEPS, save_every=STEPS // 2, state_every=10)
    output, uri = tmp_path / "run", f"sqlite:///{tmp_path}/mlflow.db"
    create_store(uri, tmp_path / "artifacts")
    process = toy.start(run, output, uri)
    log, samples = output / "state/metrics.jsonl", []
    while process.is_alive():
        done = log.read_bytes().count(b"\n") if log.exists() else 0
        if SETTLED <= done < STEPS:
            samples.append((_resident(process.pid), _open_files(process.pid)))
        time.sleep(0.1)
    assert process.exitcode == 0
    memory, files = zip(*(sample for sample in samples if all(sample)), strict=True)
    growth = max(memory) / statistics.median(memory[:5]) - 1
    # MLflow's store and the verifier's worker are opened when first needed, and a file that is
    # being written counts for a moment; what is never closed adds up to the end.
    later, tenth = files[len(files) // 2 :], max(1, len(files) // 10)
    opened = statistics.median(later[-tenth:]) - statistics.median(later[:tenth])
    times = pd.read_parquet(output / "metrics.parquet")["time/step_s"][SETTLED:]
    half = len(times) // 2
    drift = times[half:].median() / times[:half].median() - 1
    print(f"memory {growth:+.2%}, step time {drift:+.2%}, open files {opened:+g}")
    assert growth < 0.05
    assert opened == 0
    assert drift < 0.1
