"""Time of a training step with MLflow's mirror beside it, over one without, interleaved.

Runs are started by `aent train`, one after the other: a round is one run of each variant, in an
order that turns. The time of a step is that between two rows of the metrics log, which is all that
training does: sampling, reward, update, record, state. The first step is left out. Variants:

    none         --no-mlflow
    sqlite       a SQLite store, as by default
    locked       the same, with an exclusive lock held by another connection all the time
    missing      the same, but its folder cannot be made
    server       an MLflow server on loopback
    killed       the same, killed (SIGKILL) as the run starts

With `taskset -c 0`, training and mirror share a core; the server has the others, if there are any.

    taskset -c 0 python benchmarks/tracking.py --variants none,sqlite --rounds 4
    taskset -c 0 python benchmarks/tracking.py --config tests/config.yaml --setting toy --steps 300
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from aent.config import ScratchModel, parse
from aent.journal import read_journal
from aent.tracking import create_store

VARIANTS = ("none", "sqlite", "locked", "missing", "server", "killed")


def prepare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The configuration of runs in a folder of their own, with its model and problems there."""
    from aent.models import build_tokenizer, create_model, save_model
    from aent.problems import load_problems
    from aent.problems.record import write_problems

    data: dict[str, Any] = yaml.safe_load(options.config.read_text())
    data["results"] = str(folder / "results")
    data["settings"][options.setting]["trainer"] |= {
        "steps": options.steps,
        "save_every": options.steps,
    }
    config = parse(data)
    setting = config.settings[options.setting]
    model = folder / "results" / "models" / setting.model
    if options.model:
        shutil.copytree(options.model, model)
    else:
        scratch = config.models[setting.model]
        assert isinstance(scratch, ScratchModel)
        save_model(create_model(scratch), build_tokenizer(scratch.vocabulary), model)
    problems = load_problems(config.problems[setting.problems])
    write_problems(folder / "results" / "problems" / f"{setting.problems}.jsonl", problems)
    return data


@contextlib.contextmanager
def served(database: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An MLflow server over a SQLite store: its URI and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{database}"]
    others = set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0)
    server = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        process_group=0,
    )
    if others:
        os.sched_setaffinity(server.pid, others)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 9)
        server.wait()


@contextlib.contextmanager
def tracked(variant: str, folder: Path) -> Iterator[str | None]:
    """The variant's tracking URI, with its fault in effect."""
    database = folder / "mlflow.db"
    if variant == "none":
        yield None
        return
    if variant == "missing":
        yield f"sqlite:////proc/{database.name}"
        return
    create_store(f"sqlite:///{database}", folder / "artifacts")
    if variant in ("server", "killed"):
        with served(database) as (uri, server):
            if variant == "killed":
                os.killpg(server.pid, 9)
            yield uri
        return
    with contextlib.closing(sqlite3.connect(database if variant == "locked" else ":memory:")) as it:
        if variant == "locked":
            it.execute("BEGIN EXCLUSIVE")
        yield f"sqlite:///{database}"


def steps_of(variant: str, data: dict[str, Any], folder: Path, options: Any) -> dict[str, Any]:
    """Train once: seconds of each step, of the command, and of CPU in all its processes."""
    folder.mkdir()
    with tracked(variant, folder) as uri:
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(data | {"tracking": {"uri": uri, "enabled": bool(uri)}}))
        command = [sys.executable, "-m", "aent", "train", "--config", str(file), "--keep-state"]
        command += ["--setting", options.setting, "--method", options.method]
        command += ["--output", str(folder / "run")]
        before, start = os.times(), time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wall, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise SystemExit(done.stderr)
    rows = read_journal(folder / "run/state/metrics.jsonl")
    at = [row["timestamp"] for row in rows]
    return {
        "steps": [later - earlier for earlier, later in itertools.pairwise(at)],
        "wall": wall,
        "cpu": sum(after[2:4]) - sum(before[2:4]),
    }


def main() -> None:
    """Print medians, means and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    parser.add_argument("--setting", default="laptop")
    parser.add_argument("--method", default="aent")
    parser.add_argument("--model", type=Path, help="default: the setting's model, fresh")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", default="none,sqlite")
    options = parser.parse_args()
    names = options.variants.split(",")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = prepare(options, folder)
        for number in range(options.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                found[name].append(steps_of(name, data, folder / f"{name}{number}", options))
    times = {name: [s for run in runs for s in run["steps"]] for name, runs in found.items()}
    first = times[names[0]]
    for name, runs in found.items():
        median, mean = statistics.median(times[name]), statistics.fmean(times[name])
        print(
            f"{name}: step median {median:.4f} s, mean {mean:.4f} s; "
            f"over {names[0]}: median {median / statistics.median(first):.3f}, "
            f"mean {mean / statistics.fmean(first):.3f}; "
            f"command {statistics.median(r['wall'] for r in runs):.1f} s, "
            f"CPU {statistics.median(r['cpu'] for r in runs):.1f} s"
        )
        print("  medians of the runs:", *(f"{statistics.median(r['steps']):.4f}" for r in runs))


if __name__ == "__main__":
    main()
