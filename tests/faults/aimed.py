"""A training process that kills itself between two function calls of a part of a step.

A kill from outside hits whatever takes longest. Here the calls within a part are counted, Python's
and C's alike, and SIGKILL comes before a given one: an exact moment, and the same on any machine.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from aent.folder import RunFolder
from aent.logs import FORMAT
from aent.session import Session
from aent.tracking import RunRecorder
from aent.trainer import train

PARTS: dict[str, tuple[type, tuple[str, ...]]] = {
    "sampling": (Session, ("collect",)),
    "update": (Session, ("learn",)),
    "metric flush": (RunRecorder, ("log", "sync")),
    "checkpoint": (Session, ("save_checkpoint",)),
    "completions": (RunFolder, ("keep_completions",)),
    "state": (Session, ("save",)),
    "metrics file": (RunRecorder, ("finish",)),
    "publishing": (RunFolder, ("publish",)),
}
"""Part of a run -> the methods that it is."""

Hook = Callable[..., None]


@contextmanager
def hooked(hooks: dict[str, Hook]) -> Iterator[None]:
    """Call a part's hook before and after every function call within it."""

    def within(original: Any, hook: Hook) -> Any:
        def method(*arguments: Any, **named: Any) -> Any:
            sys.setprofile(hook)
            try:
                return original(*arguments, **named)
            finally:
                sys.setprofile(None)

        return method

    with ExitStack() as patches:
        for part, hook in hooks.items():
            owner, names = PARTS[part]
            changed = {name: within(getattr(owner, name), hook) for name in names}
            patches.enter_context(patch.multiple(owner, **changed))
        yield


def count_calls(*arguments: Any) -> Counter[str]:
    """Train to the end; returns how many function calls each part makes in all."""
    calls: Counter[str] = Counter()

    def counting(part: str) -> Hook:
        def count(frame: Any, event: str, argument: Any) -> None:
            calls[part] += event in ("call", "c_call")

        return count

    with hooked({part: counting(part) for part in PARTS}):
        train(*arguments)
    return calls


def train_and_log(log: Path, *arguments: Any) -> None:
    """Train, and add what is logged to a file."""
    logging.basicConfig(filename=log, level=logging.INFO, format=FORMAT, force=True)
    train(*arguments)


def train_and_die(log: Path, part: str, number: int, *arguments: Any) -> None:
    """Train until the part makes its call of this number, and be killed; log as above."""
    left = number

    def kill(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        left -= event in ("call", "c_call")
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with hooked({part: kill}):
        train_and_log(log, *arguments)
