r"""Time of a training step with MLflow's mirror beside it, over one without, interleaved.

Runs are started by `aent train`, one after the other: a round is one run of each variant, in an
order that turns. The time of a step is that between two rows of the metrics log, which is all that
training does: sampling, reward, update, record, state. The first step is left out. Variants:

    none         --no-mlflow
    sqlite       a SQLite store, as by default
    locked       the same, with an exclusive lock held by another connection all the time
    read-only    the same, made read-only after a third of the steps
    deleted      the same, deleted after a third of the steps
    replaced     the same, replaced by an empty one after a third of the steps
    late         the same, not there during the first third of the steps
    missing      the same, but its folder cannot be made
    alone        the same; the mirror's process is killed (SIGKILL) after a third of the steps
    server       an MLflow server on loopback
    killed       the same, killed (SIGKILL) after a third of the steps
    gone         the same, killed as the run starts

With `taskset -c 0`, training and mirror share a core; the server has the others, if there are any.

    taskset -c 0 python benchmarks/tracking.py --variants none,sqlite --rounds 4
    taskset -c 0 python benchmarks/tracking.py --config tests/config.yaml --setting toy \
        --steps 300 --variants all
    python benchmarks/tracking.py --config tests/config.yaml --setting toy --steps 200 --writers 8
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from aent.config import ScratchModel, parse
from aent.journal import read_journal
from aent.tracking import create_store

VARIANTS = (
    *("none", "sqlite", "locked", "read-only", "deleted", "replaced", "late", "missing", "alone"),
    *("server", "killed", "gone"),
)
Fault = Callable[[int], object]  # gets the number of the process that trains


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
def tracked(variant: str, folder: Path) -> Iterator[tuple[str | None, Fault]]:
    """The variant's tracking URI, and what is to happen after a third of the steps."""
    store, other = folder / "store", folder / "other"
    database = store / "mlflow.db"
    uri = f"sqlite:///{database}"
    if variant == "none":
        yield None, _nothing
        return
    if variant == "missing":
        yield f"sqlite:////proc/{database.name}", _nothing
        return
    create_store(uri, folder / "artifacts")
    if variant in ("server", "killed", "gone"):
        with served(database) as (address, server):
            if variant == "gone":
                os.killpg(server.pid, 9)
            kill = variant == "killed"
            yield address, (lambda _: os.killpg(server.pid, 9)) if kill else _nothing
        return
    if variant == "late":
        store.rename(other)
        store.touch()  # a file in the folder's place, or training would make a store
    if variant == "replaced":
        shutil.copytree(store, other)
    faults: dict[str, Fault] = {
        "read-only": lambda _: _make_read_only(database),
        "deleted": lambda _: database.unlink(),
        "replaced": lambda _: os.replace(other / database.name, database),
        "late": lambda _: (store.unlink(), other.rename(store)),
        "alone": _kill_mirror,
    }
    with contextlib.closing(sqlite3.connect(database if variant == "locked" else ":memory:")) as it:
        if variant == "locked":
            it.execute("BEGIN EXCLUSIVE")
        yield uri, faults.get(variant, _nothing)


def _nothing(trainer: int) -> None:
    """No fault."""


def _make_read_only(database: Path) -> None:
    """Ask for a version of SQLite to write with that there is not: that works for root, too."""
    with database.open("r+b") as file:
        file.seek(18)
        file.write(b"\x03")


def _kill_mirror(trainer: int) -> None:
    command = ["pkill", "-KILL", "-f", "aent.mirror_worker", "--parent", str(trainer)]
    subprocess.run(command, check=True)


def steps_of(variant: str, data: dict[str, Any], folder: Path, options: Any) -> dict[str, Any]:
    """Train once, or several runs at once: seconds of each step, of all of it, and of CPU."""
    folder.mkdir()
    runs = [folder / f"run{seed}" for seed in range(options.writers)]
    journals = [run / "state/metrics.jsonl" for run in runs]
    with tracked(variant, folder) as (uri, fault):
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(data | {"tracking": {"uri": uri, "enabled": bool(uri)}}))
        command = [sys.executable, "-m", "aent", "train", "--config", str(file), "--keep-state"]
        command += ["--setting", options.setting, "--method", options.method]
        before, start = os.times(), time.perf_counter()
        trainings = [
            subprocess.Popen(
                [*command, "--seed", str(seed), "--output", str(run), "--log", f"{run}.log"],
                stderr=subprocess.DEVNULL,
            )
            for seed, run in enumerate(runs)
        ]
        first = journals[0]
        while trainings[0].poll() is None:
            if first.exists() and first.read_bytes().count(b"\n") >= options.steps // 3:
                fault(trainings[0].pid)
                break
            time.sleep(0.1)
        failed = [run for run, one in zip(runs, trainings, strict=True) if one.wait()]
        wall, after = time.perf_counter() - start, os.times()
    if failed:
        raise SystemExit(Path(f"{failed[0]}.log").read_text())
    times = [[row["timestamp"] for row in read_journal(journal)] for journal in journals]
    return {
        "steps": [later - earlier for at in times for earlier, later in itertools.pairwise(at)],
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
    parser.add_argument("--variants", default="none,sqlite", help="with commas; or: all")
    parser.add_argument("--writers", type=int, default=1, help="runs at once, into one store")
    options = parser.parse_args()
    names = VARIANTS if options.variants == "all" else options.variants.split(",")
    if unknown := set(names) - set(VARIANTS):
        parser.error(f"--variants: unknown {sorted(unknown)}; allowed {list(VARIANTS)}")
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
