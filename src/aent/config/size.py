"""Bounds that a configuration of a human size never meets, checked before anything copies it."""

from __future__ import annotations

from typing import Any

DEEPEST, MOST_VALUES = 30, 100_000
LARGEST = 2**53
"""Numbers beyond it are no exact floats, and no number of anything."""


def size_problem(data: Any) -> str | None:
    """The first value that is nested, repeated or large beyond reason, with its key; or None.

    Also of data that contains itself, which YAML can say.
    """
    waiting, count = [("", data, 0)], 0
    while waiting:
        key, value, depth = waiting.pop()
        inner: list[tuple[Any, Any]] = []
        if isinstance(value, dict):
            inner = list(value.items())
        elif isinstance(value, list | tuple):
            inner = list(enumerate(value))
        count += len(inner)
        if depth > DEEPEST:
            return f"{key:.300}: nested more than {DEEPEST} levels deep"
        if count > MOST_VALUES:
            return f"{key:.300}: with this the configuration has more than {MOST_VALUES} values"
        if isinstance(value, int | float) and abs(value) > LARGEST:
            return f"{key:.300}: numbers beyond {LARGEST} are not allowed"
        prefix = f"{key}." if key else ""
        waiting += [(f"{prefix}{printable(name):.80}", item, depth + 1) for name, item in inner]
    return None


def printable(key: object) -> str:
    """A key as a message shows it: on one line, whatever it holds."""
    text = str(key)
    return text if text.isprintable() else repr(text)
