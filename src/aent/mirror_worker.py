"""The process that brings a run's rows from its journal to MLflow, for `aent.mirror`.

Reads a JSON line with what to mirror from standard input and, when training ends, one with how.
Answers JSON lines: `run_id` when MLflow has the run, `trouble` when it does not take the rows and
will be tried again, and last `complete`, or `lacks` when it is given up. Ends at once when the
input does: training was killed, and whoever goes on with the run brings a mirror of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aent.config import Run
from aent.journal import Follower
from aent.logs import configure_logging
from aent.store import SCORES, Store, reason, to_points

FLUSH_S = 2.0  # steps that finish within this time go to MLflow together
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0  # between two tries; a wait is twice the one before
LAST_TRIES = 3  # when training has ended; one, of a store that failed before


class SupersededError(RuntimeError):
    """The journal is another process's now."""


class Courier:
    """Brings the rows of a journal to MLflow; after a failure it looks at what arrived."""

    run_id: str | None
    """The run's id in MLflow, once it has one."""

    def __init__(self, uri: str, run: Run, tags: dict[str, str], journal: Path, resumed: bool):
        """Remember what to mirror; see `aent.mirror.Mirror`."""
        self.uri, self.run, self.tags, self.resumed = uri, run, tags, resumed
        self.run_id = None
        self.follower = Follower(journal)
        self.store: Store | None = None

    def bring(self) -> None:
        """Log what the journal has and MLflow lacks.

        Raises:
            SupersededError: another process has replaced the journal.
            Exception: MLflow did not take it, and may have some of it: see `reopen`.
        """
        if not self.follower.is_current():
            raise SupersededError(f"{self.follower.path} has been replaced by another process")
        if self.store is None or self.run_id is None:
            self._open()
        else:
            self.store.log(self.run_id, to_points(self.follower.read()))

    def finish(self, status: str, steps: int | None) -> None:
        """Bring what is left and end the MLflow run.

        Args:
            status: FINISHED or FAILED.
            steps: steps that the journal must have; None when it does not matter.

        Raises:
            Exception: as `bring`.
        """
        self.bring()
        assert self.store is not None
        assert self.run_id is not None
        if steps is not None:
            rows = self._rows()
            if len(rows) != steps:
                raise ValueError(f"{self.follower.path}: {len(rows)} intact rows of {steps} steps")
            # Whatever was logged above: MLflow is asked what it holds.
            self.run_id = self._hold(self.store, rows, self.run_id)
        self.store.mark(self.run_id, status)

    def reopen(self) -> None:
        """Have the next call find out what MLflow holds."""
        self.store = None

    def _open(self) -> None:
        """Open the store and have the run in it, with all rows so far."""
        store, found = Store(self.uri), None
        if self.resumed or self.run_id is not None:
            found = store.find(self.run, self.tags, self.run_id)
        self.run_id = self._hold(store, self._rows(), found)
        store.mark(self.run_id, "RUNNING")
        self.store = store

    def _rows(self) -> list[dict[str, Any]]:
        self.follower.rewind()
        return self.follower.read()

    def _hold(self, store: Store, rows: list[dict[str, Any]], found: str | None) -> str:
        # A finished run that is published again may have scores already.
        return store.hold(self.run, self.tags, rows, found, aside=SCORES)[0]


def mirror(courier: Courier, ends: queue.SimpleQueue[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """Bring rows as they come, and as long as it takes, until the run has ended.

    Args:
        courier: what brings them.
        ends: gets the arguments of `Courier.finish` when training ends.

    Yields:
        What to tell the training process: `run_id`; `trouble` or `lacks` with a reason; `complete`.
    """
    pause_s, failing, known = 0.0, False, None
    end: dict[str, Any] | None = None
    tries = LAST_TRIES
    while tries:
        if end is not None:
            time.sleep(pause_s)
        else:
            with contextlib.suppress(queue.Empty):
                end = ends.get(timeout=pause_s)
                tries = 1 if failing else LAST_TRIES
        try:
            if end is None:
                courier.bring()
            else:
                courier.finish(**end)
        except SupersededError as error:
            yield {"lacks": str(error)}
            return
        except Exception as error:  # what MLflow's many back ends raise has no common type
            courier.reopen()
            tries -= end is not None
            if not tries:
                yield {"lacks": reason(error)}
            elif not failing:
                yield {"trouble": reason(error)}
            pause_s = min(2 * pause_s, LONGEST_WAIT_S) if failing else FIRST_WAIT_S
            failing = True
        else:
            if failing or courier.run_id != known:
                known = courier.run_id
                yield {"run_id": str(known)}
            if end is not None:
                yield {"complete": end["status"]}
                return
            pause_s, failing = FLUSH_S, False


def main() -> None:
    """Mirror until the input says how the run ended, or closes."""
    # A cluster that ends a job signals all its processes; the parent may still have rows for us.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    configure_logging()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    if not (line := sys.stdin.readline()):
        return
    order = json.loads(line)
    courier = Courier(
        order["uri"],
        Run.model_validate(order["run"]),
        order["tags"],
        Path(order["journal"]),
        order["resumed"],
    )
    ends: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(ends,), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # nobody is there to be told
        for message in mirror(courier, ends):
            print(json.dumps(message), file=answers)


def _listen(ends: queue.SimpleQueue[dict[str, Any]]) -> None:
    line = sys.stdin.readline()
    if not line:
        os._exit(1)
    ends.put(json.loads(line))


if __name__ == "__main__":
    main()
