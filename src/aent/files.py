"""Files and folders that are whole or absent, and errors that name what the disk would not take."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


class StorageError(OSError):
    """Something could not be written; the message names it. What was there before is unharmed."""


@contextmanager
def replacing(target: Path, guard: Callable[[], object] | None = None) -> Iterator[Path]:
    """A path beside `target` to write a file or a folder to, which takes its name at the end.

    Written, synced, renamed: a kill at any moment leaves the old content or the new one. The path
    is nobody else's, so that a process which was stopped and thought dead never writes into what
    its successor writes.

    Args:
        target: what to replace; its folder is made when missing.
        guard: called just before the rename; when it raises, the target stays as it was.

    Raises:
        StorageError: the disk is full, read-only or gone.
    """
    tag = f"{os.getpid()}-{secrets.token_hex(4)}"
    partial = target.with_name(f".{target.name}.{tag}{PARTIAL}")
    try:
        with naming(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _sync_all(partial)
            if guard is not None:
                guard()
            _install(partial, target)
            sync(target.parent)
    finally:
        with naming(target):  # a disk that is gone takes no removal either
            remove(partial)


@contextmanager
def naming(target: Path) -> Iterator[None]:
    """Make an error of the operating system name the target.

    Raises:
        StorageError: in place of any other OSError.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror or error}") from error


def sync(path: Path) -> None:
    """Make a file's content, or the renames inside a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder. Only for its one writer."""
    for leftover in folder.glob(f".*{PARTIAL}"):
        remove(leftover)


def _sync_all(path: Path) -> None:
    for item in [*path.rglob("*"), path] if path.is_dir() else [path]:
        sync(item)


def _install(partial: Path, target: Path) -> None:
    if not (partial.is_dir() and target.exists()):
        os.replace(partial, target)
        return
    # A folder cannot be renamed onto one with content.
    old = partial.with_suffix(f".old{PARTIAL}")
    target.rename(old)
    partial.rename(target)
    remove(old)
