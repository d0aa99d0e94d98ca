"""The mirror of a run in MLflow: a process beside training, which never waits for it.

A thread would do the same work, and training would pay for it: importing MLflow takes two seconds
of the interpreter's lock, and a call that hangs cannot be ended. The process (`aent.mirror_worker`)
runs at low priority and follows the run's journal, so that a store which is slow, locked or gone
costs a warning; what it lacks is filled in when it comes back, or by `aent sync`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aent.config import Run

log = logging.getLogger(__name__)

# Beside training that wants the same core, the process gets a 68th of it. Not less (SCHED_IDLE):
# who starves in a transaction of a SQLite store keeps the other writers waiting.
NICENESS = 19
FINISH_S = 60.0  # longest wait for the mirror when a run ends
HURRY_S = 2.0  # of these, those for the process at low priority, if it is through its imports
ABANDON_S = 5.0  # longest wait when a run fails
KILLED_S = 10.0  # longest wait for a killed process; one that waits for a dead disk stays


class Mirror:
    """The process that brings a run's rows to MLflow; no failure of it leaves this class."""

    run_id: str | None
    """The run's id in MLflow, once it has one."""

    def __init__(self, uri: str, run: Run, tags: dict[str, str], journal: Path, resumed: bool):
        """Start the process.

        Args:
            uri: MLflow tracking URI.
            run: the resolved run.
            tags: from `aent.store.run_tags`, and more.
            journal: the run's metric rows, to which the caller adds.
            resumed: it has rows already, of an interrupted run.
        """
        self.uri, self.name = uri, run.name
        self.run_id = None
        self._order: dict[str, Any] = {"uri": uri, "run": run.model_dump(mode="json"), "tags": tags}
        self._order |= {"journal": str(journal), "resumed": resumed}
        self._warned = False
        self._worker = self._start(NICENESS)

    def finish(self, steps: int) -> str | None:
        """Let MLflow have all rows, of so many steps, and say that the run is complete.

        Returns:
            The MLflow run's id; None when MLflow has none.
        """
        end = {"status": "FINISHED", "steps": steps}
        worker = self._take_worker()
        # One that has said nothing found its core busy: a new one, at this priority, is faster.
        hurry_s = HURRY_S if worker is not None and worker.heard else 0.0
        if worker is not None and not worker.end(end, hurry_s):
            worker = self._start(0)
            if worker is not None and not worker.end(end, FINISH_S - hurry_s):
                self._say_lacking(f"no answer within {FINISH_S:.0f} s")
        return self.run_id

    def abandon(self) -> None:
        """The run ends before its time: say so in MLflow, if that goes quickly."""
        worker = self._take_worker()
        if worker is not None:
            worker.end({"status": "FAILED", "steps": None}, ABANDON_S)

    def _take_worker(self) -> _Worker | None:
        """The worker, to be ended; a signal may interrupt that, and nobody shall end it twice."""
        worker, self._worker = self._worker, None
        return worker

    def _start(self, niceness: int) -> _Worker | None:
        known = self.run_id is not None
        order = self._order | {"resumed": known or self._order["resumed"]}
        try:
            return _Worker(order, niceness, self._hear)
        except OSError as error:
            self._say_lacking(f"the mirror's process does not start: {error}")
            return None

    def _hear(self, message: dict[str, str]) -> None:
        """What `aent.mirror_worker` says."""
        if "run_id" in message:
            self.run_id = message["run_id"]
            if self._warned:
                log.info("MLflow (%s) takes %s again", self.uri, self.name)
        elif "trouble" in message:
            self._say(
                f"does not take {self.name}: {message['trouble']}. Training goes on, and so does "
                "trying; what is missing in the end is filled in by: aent sync"
            )
        elif "lacks" in message:
            self._say_lacking(message["lacks"])

    def _say_lacking(self, reason: str) -> None:
        self._say(f"lacks rows of {self.name}: {reason}. They are filled in by: aent sync")

    def _say(self, what: str) -> None:
        """Log a warning, but one a run."""
        log.log(logging.INFO if self._warned else logging.WARNING, "MLflow (%s) %s", self.uri, what)
        self._warned = True


class _Worker:
    """One `aent.mirror_worker` process, and a thread that listens to it."""

    def __init__(
        self, order: dict[str, Any], niceness: int, hear: Callable[[dict[str, str]], None]
    ):
        # A fresh interpreter, not a fork: this one may hold torch's threads, and its main module
        # may be a workflow script that must not run again.
        self.process = subprocess.Popen(
            # -P: no module of the working directory may stand in for one of ours.
            [sys.executable, "-P", "-m", "aent.mirror_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            process_group=0,  # Ctrl-C is for this process, which then ends that one
        )
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, self.process.pid, own + niceness)
        self.hear = hear
        self.heard = False  # it has answered: MLflow is imported, and was asked
        self.stopped = False
        self.listener = threading.Thread(target=self._listen, name="mlflow", daemon=True)
        self.listener.start()
        self._tell(order)

    def end(self, how: dict[str, Any], patience_s: float) -> bool:
        """Let it bring what is left; returns whether it ended by itself, and ends it if not.

        A signal that interrupts the wait ends it, too: SIGTERM leaves no time for MLflow.
        """
        assert self.process.stdin is not None
        try:
            self._tell(how)
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            self.listener.join(patience_s)
        finally:
            self.stopped = self.listener.is_alive()
            if self.stopped:
                self._kill()
        return not self.stopped

    def _kill(self) -> None:
        self.process.kill()
        self.listener.join(KILLED_S)
        if self.listener.is_alive():
            log.warning(
                "the mirror's process %d is still there %.0f s after it was killed; is MLflow's "
                "store on a disk that does not answer?",
                self.process.pid,
                KILLED_S,
            )

    def _tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died; the listener says so
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        message: dict[str, str] = {}
        with self.process.stdout as lines:
            for line in lines:
                message = json.loads(line)
                self.heard = True
                self.hear(message)
        status = self.process.wait()
        if not self.stopped and not {"complete", "lacks"} & message.keys():
            self.hear({"lacks": f"the mirror's process ended with status {status}"})
