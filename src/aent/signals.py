"""A clean answer to SIGTERM: the time limit or the preemption of a cluster.

Slurm sends SIGTERM and, half a minute later, SIGKILL. What can be repeated, such as sampling, is
left at once. What must not be torn, such as an update of the weights, is finished first.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

STATUS = 75
"""Exit status after SIGTERM: `EX_TEMPFAIL` of sysexits.h, "try again later"."""


class Terminated(SystemExit):
    """The process was asked to end; uncaught, it ends with `STATUS`."""

    def __init__(self) -> None:
        super().__init__(STATUS)


class Termination:
    """While it is entered, SIGTERM raises `Terminated`, at once or when a deferral ends.

    For the main thread; other threads get no signals.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        self._before: Any = None

    def __enter__(self) -> Termination:
        self._before = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGTERM, self._before)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Finish what is inside before the signal counts.

        Raises:
            Terminated: the signal came in the meantime.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested:
            raise Terminated

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Around what may be left at once; it may always, outside `deferred`."""
        yield

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        # A second signal must not interrupt what the first one made us save.
        if not self._deferred and not again:
            raise Terminated
