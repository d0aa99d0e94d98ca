"""Save and restore everything that a step depends on.

A state is a file of `torch.save` with a checksum behind it, written beside its final name, synced
and renamed: a kill at any moment leaves the previous state readable. It counts only together with
what the steps before it left in other files, which the caller knows. A state that does not count
is set aside, never deleted.

What a step depends on besides it (prompt order, sampling noise, dropout) is a function of the run's
seed and the step's number, so nothing else is kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import torch

from aent.files import replacing

log = logging.getLogger(__name__)

MAGIC = b"AENTSTATE2"
_TAIL = 32 + len(MAGIC)  # SHA-256 of what precedes, then the magic
_CHUNK = 1 << 20


class StateError(RuntimeError):
    """No usable state where one was expected; the message names the files."""


def save_state(
    folder: Path,
    step: int,
    state: dict[str, Any],
    keep: int = 2,
    guard: Callable[[], object] | None = None,
) -> Path:
    """Write `state-{step}.pt` durably and drop all but the newest `keep` states.

    Args:
        folder: made when missing.
        step: the last finished step.
        state: tensors, numbers, strings and containers of them.
        keep: states kept, so that a torn newest one has a predecessor.
        guard: called before the file takes its name; what it raises leaves the folder unchanged.

    Raises:
        aent.files.StorageError: the disk is full or gone; earlier states are unharmed.
    """
    target = state_path(folder, step)
    with replacing(target, guard) as partial, partial.open("wb") as file:
        hashing = _Hashing(file)
        try:
            torch.save({"step": step, **state}, cast(IO[bytes], hashing))
        except RuntimeError as error:  # torch's own, in place of the disk's error
            raise hashing.error or error from None
        file.write(hashing.sha256.digest() + MAGIC)
    for old in sorted(folder.glob("state-*.pt"))[:-keep]:
        old.unlink()
    return target


def state_path(folder: Path, step: int) -> Path:
    """Where the state of a step is."""
    return folder / f"state-{step:08d}.pt"


def load_state(
    folder: Path, device: str = "cpu", lacking: Callable[[int], str | None] = lambda step: None
) -> dict[str, Any] | None:
    """The newest usable state, or None when there is none at all. Unusable ones are set aside.

    Args:
        folder: where the states are; the caller is its only writer.
        device: where tensors go.
        lacking: what a state of this step lacks outside its file, in words that name the place;
            None when nothing.

    Raises:
        StateError: there are states, but none is usable.
    """
    files = sorted(folder.glob("state-*.pt"), reverse=True)
    found: list[str] = []
    aside: list[Path] = []
    for file in files:
        fault = _damage(file) or lacking(int(file.stem.removeprefix("state-")))
        if fault is None:
            for unusable in aside:
                os.replace(unusable, unusable.with_suffix(".pt.unusable"))
            return _open(file, device)
        log.warning("%s is not used; trying the state before it. %s", file, fault)
        found.append(fault)
        aside.append(file)
    if files:
        raise StateError(
            f"{folder}: none of the {len(files)} states is usable: {'; '.join(found)}. "
            f"Put the files right, or move {folder} away to start the run afresh"
        )
    return None


class _Hashing:
    """A binary file's `write`, hashed on its way; keeps the error that torch turns into its own."""

    def __init__(self, file: IO[bytes]):
        self.file, self.sha256 = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            written = self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        return written

    def flush(self) -> None:
        self.file.flush()


def _damage(file: Path) -> str | None:
    """What is wrong with a state file; None when its checksum is right. Reads it in pieces."""
    size = file.stat().st_size
    left, sha256 = size - _TAIL, hashlib.sha256()
    with file.open("rb") as content:
        while left > 0 and (piece := content.read(min(left, _CHUNK))):
            sha256.update(piece)
            left -= len(piece)
        if left == 0 and content.read() == sha256.digest() + MAGIC:
            return None
    return f"{file}: is damaged ({size} bytes)"


def _open(file: Path, device: str) -> dict[str, Any]:
    try:
        # The checksum behind torch's archive does not disturb its reader.
        state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise StateError(f"{file}: is intact, but torch cannot open it: {error}") from error
    return state
