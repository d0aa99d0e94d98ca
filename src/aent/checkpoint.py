"""Save and restore everything that a step depends on.

A state file is written beside its final name, synced and renamed, and carries a checksum: a kill at
any moment leaves the previous state readable. What a step depends on besides it (prompt order,
sampling noise) is a function of the run's seed and the step's number, so nothing else is kept.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

MAGIC = b"AENTSTATE1"


class StateError(RuntimeError):
    """No readable state where one was expected."""


def save_state(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write `state-{step}.pt` durably and drop all but the newest `keep` states.

    Args:
        folder: made when missing.
        step: the last finished step.
        state: tensors, numbers, strings and containers of them.
        keep: states kept, so that a torn newest one has a predecessor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"step": step, **state}, buffer)
    data = buffer.getvalue()
    target = folder / f"state-{step:08d}.pt"
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(MAGIC + hashlib.sha256(data).digest() + data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, target)
    sync_folder(folder)
    for old in sorted(folder.glob("state-*.pt"))[:-keep]:
        old.unlink()
    return target


def load_state(folder: Path, device: str = "cpu") -> dict[str, Any] | None:
    """The newest intact state, or None when there is none at all.

    Raises:
        StateError: there are states, but none of them is intact.
    """
    files = sorted(folder.glob("state-*.pt"), reverse=True)
    for file in files:
        data = file.read_bytes()
        head = len(MAGIC) + 32
        body = data[head:]
        if data[:head] == MAGIC + hashlib.sha256(body).digest():
            state: dict[str, Any] = torch.load(
                io.BytesIO(body), map_location=device, weights_only=True
            )
            return state
        log.warning("%s is damaged (%d bytes); trying the state before it", file, len(data))
    if files:
        raise StateError(f"{folder}: none of the {len(files)} states is intact; remove them all")
    return None


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
