"""A lease on a run's folder: one writer at a time, on a network file system too.

The holder is a file `lease-{n}` with a token; the highest n counts. It is taken by creating the
next number, which succeeds once only (O_EXCL), and lost when its file is removed. No lock of the
operating system is used: those are unreliable over NFS, and die silently with a node. A thread
touches the file every few seconds. Who finds a file watches it by its own clock, so clocks need not
agree: a touch means that the holder lives. A holder on the same machine whose process is gone is
dead at once; any other is dead when it was not touched for `STALE_S`.

A holder looks at its file before it writes. One that was stopped (SIGSTOP, a frozen node) and
overtaken finds the file gone when it wakes up, and ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

from aent.files import naming

log = logging.getLogger(__name__)

BEAT_S = 5.0  # seconds between two touches
STALE_S = 60.0  # seconds without one after which a holder is taken for dead


class LeaseError(RuntimeError):
    """Another process writes to this folder; the message names it."""


def _machine() -> str:
    """This boot and process-number space; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; empty when it is gone, or a mere zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True)
class Holder:
    """A process, so that it can be found and told from a later one with the same number."""

    host: str = field(default_factory=socket.gethostname)
    machine: str = field(default_factory=_machine)
    """Boot and process-number space: where `pid` means something."""
    pid: int = field(default_factory=os.getpid)
    started: str = field(default_factory=lambda: _started(os.getpid()))
    """The process's start, in ticks since boot."""
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_gone(self) -> bool:
        """Whether it surely ended; False also where nothing is known, as on another machine."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return _started(self.pid) != self.started


class Lease:
    """The right to write to a folder; a context manager."""

    def __init__(self, folder: Path, waits: bool = True):
        """Prepare; the lease is taken on entering.

        Args:
            folder: what to write to; made when missing.
            waits: watch a present holder for a sign of life; without, it lives unless it is known
                to have ended.
        """
        self.folder, self.waits = folder, waits
        self.holder = Holder()
        self.path = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        """Take the lease, watching a present holder for up to `STALE_S`.

        Raises:
            LeaseError: it lives.
            aent.files.StorageError: the folder cannot be written to.
        """
        with naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        while not self._take():
            pass  # another process was faster: look at that one
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        if _look(self.path)[0] == self.holder:
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Call before writing.

        Raises:
            LeaseError: another process took over; nothing may be written any more.
        """
        if _look(self.path)[0] != self.holder:
            newest = self._newest()
            now = _look(self._name(newest))[0] if newest else None
            raise LeaseError(
                f"{self.folder}: {self.holder} was silent for too long and has lost this run to "
                f"{now or 'another process'}; it ends without writing"
            )

    def _take(self) -> bool:
        """Whether the lease is ours now; False when it has to be tried again."""
        newest = self._newest()
        if newest:
            self._await_death(self._name(newest))
        path = self._name(newest + 1)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            with naming(path), os.fdopen(descriptor, "w") as file:
                file.write(json.dumps(asdict(self.holder)) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if self._newest() != newest + 1:  # numbers began anew while we looked
            path.unlink(missing_ok=True)
            return False
        for number in self._numbers():
            if number <= newest:
                self._name(number).unlink(missing_ok=True)
        self.path = path
        return True

    def _await_death(self, path: Path) -> None:
        """Return when the file's holder is dead or gone.

        Raises:
            LeaseError: it lives.
        """
        holder, first = _look(path)
        until = time.monotonic() + STALE_S
        told = False
        while first is not None and time.monotonic() < until:
            if holder is not None and holder.is_gone():
                log.warning("%s: taking over from %s, which is gone", self.folder, holder)
                return
            if not self.waits:
                raise self._taken(holder, path)
            if not told:
                log.info("%s: waiting for a sign of life of %s", self.folder, holder or path.name)
                told = True
            time.sleep(BEAT_S / 10)
            holder, now = _look(path)
            if now is None:
                return
            if now != first:
                raise self._taken(holder, path)
        if first is not None:
            log.warning("%s: taking over from %s: no sign of life", self.folder, holder or path)

    def _taken(self, holder: Holder | None, path: Path) -> LeaseError:
        return LeaseError(
            f"{self.folder}: {holder or path.name} is writing to this run; wait for its end, or "
            "end it and start again"
        )

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                if _look(self.path)[0] != self.holder:
                    log.error("%s: the lease is lost", self.folder)
                    return
                os.utime(self.path)
            except OSError as error:  # a file server that is away for a moment; the next beat tells
                log.warning("%s: no heartbeat: %s", self.path, error)

    def _name(self, number: int) -> Path:
        return self.folder / f"lease-{number}"

    def _numbers(self) -> list[int]:
        names = (path.name.removeprefix("lease-") for path in self.folder.glob("lease-*"))
        return [int(name) for name in names if name.isdigit()]

    def _newest(self) -> int:
        return max(self._numbers(), default=0)


def _look(path: Path) -> tuple[Holder | None, int | None]:
    """Holder and time of the last touch; no holder while it is written, no time without a file.

    Opened and not only looked up: a network file system then asks the server.
    """
    try:
        with path.open("rb") as file:
            touched = os.fstat(file.fileno()).st_mtime_ns
            text = file.read()
    except (FileNotFoundError, IsADirectoryError):
        return None, None
    with contextlib.suppress(ValueError, TypeError):
        return Holder(**json.loads(text)), touched
    return None, touched
