"""A training process that takes no step before it is allowed to, so that a fault hits its middle.

A toy run of 60 steps is over before its mirror has imported MLflow. Here training waits until
MLflow has rows, then takes a step every `PACE_S` seconds until it has said what is wrong. The
mirror is the real one, but as fast as it can be and with all the time it needs, however busy the
machine is.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aent import mirror, trainer
from aent.logs import configure_logging

BEFORE, AFTER = 5, 10  # steps before a fault and, at least, after it
DURING = 20  # steps during a fault, at least
PACE_S = 0.2


def train_as_allowed(allowed: Any, log: Path, *arguments: Any) -> None:
    """Train; a step is taken when its number is at most `allowed.value`, or at once with None."""
    configure_logging(log)
    mirror.NICENESS, mirror.FINISH_S, mirror.HURRY_S = 0, 300.0, 300.0
    collect, steps = trainer.Session.collect, arguments[0].setting.trainer.steps

    def paced(session: trainer.Session, *rest: Any) -> Any:
        if allowed.value < steps:
            time.sleep(PACE_S)
        while session.step >= allowed.value:
            time.sleep(0.01)
        return collect(session, *rest)

    if allowed is not None:
        trainer.Session.collect = paced
    trainer.train(*arguments)


def wait(condition: Callable[[], Any], *, patience_s: float = 300.0) -> None:
    """Wait until the condition holds."""
    until = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


class Training:
    """A run that is disturbed in its middle; it starts, and stops after some steps."""

    def __init__(self, toy: Any, output: Path, uri: str, steps: int = 60, **trainer: Any):
        self.output, self.steps = output, steps
        self.log = output.with_name(f"{output.name}.log")
        self.log.unlink(missing_ok=True)
        self.allowed = toy.spawn.Value("i", BEFORE)
        run = toy.run("aent", **{"steps": steps, "save_every": steps, "state_every": 20} | trainer)
        first = (self.allowed, self.log)
        self.process = toy.start(run, output, uri, target=train_as_allowed, first=first)

    def rows(self) -> int:
        """Steps in the metrics log."""
        try:
            return (self.output / "state/metrics.jsonl").read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def until_mlflow_has_rows(self, database: Path) -> None:
        """Wait until a SQLite store holds points of this run, which is the only one there."""
        wait(lambda: _points(database))
        assert self.rows() <= BEFORE

    def goes_on(self, says: str = "") -> None:
        """Take steps until there were enough, and this text stands in the log."""
        self.allowed.value = self.steps - AFTER
        wait(lambda: self.rows() >= BEFORE + DURING and says in self.log.read_text())
        assert self.process.is_alive()

    def ends(self) -> list[str]:
        """Take all steps that are left, to a good end; returns what MLflow was warned of."""
        self.allowed.value = self.steps
        self.process.join()
        assert self.process.exitcode == 0
        return [line for line in self.log.read_text().splitlines() if " W MLflow " in line]


def children(pid: int) -> dict[int, str]:
    """Processes that a process has started, with their command lines."""
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = [line.split(maxsplit=1) for line in listed.splitlines()]
    return {int(child): arguments for child, arguments in found}


def mirrors(pid: int) -> list[int]:
    """Mirrors that a process has started."""
    return [child for child, command in children(pid).items() if "aent.mirror_worker" in command]


def _points(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
        [(count,)] = store.execute("SELECT count(*) FROM metrics")
    return int(count)
