"""SIGTERM where several processes train together: all of them leave the loop at the same place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aent.processes.one import Processes
from aent.signals import Terminated, Termination


class JointTermination(Termination):
    """The signal counts inside `leaving`, and where a deferral ends and all ask each other."""

    def __init__(self, processes: Processes):
        """Ask these processes."""
        super().__init__()
        self.processes = processes
        self._deferred = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """See `Termination.deferred`."""
        yield
        self._agree()

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """See `Termination.leaving`; who is told waits behind it for the others."""
        try:
            self._deferred = False
            if self.requested:
                raise Terminated
            yield
            self._deferred = True
        except Terminated:
            self._deferred = True
        self._agree()

    def _agree(self) -> None:
        if self.processes.any(self.requested):
            self.requested = True
            raise Terminated


def termination_of(processes: Processes) -> Termination:
    """The answer to SIGTERM that suits the processes."""
    return Termination() if processes.count == 1 else JointTermination(processes)
