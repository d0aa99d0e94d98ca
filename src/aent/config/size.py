"""Bounds that a configuration of a human size never meets, checked before anything copies it.

So are keys that are no text anywhere, because the models would not say where they stand.
"""

from __future__ import annotations

from typing import Any

DEEPEST, MOST_VALUES = 30, 100_000
LARGEST = 2**53
"""Numbers beyond it are no exact floats, and no number of anything."""


def size_problem(data: Any) -> str | None:
    """The first value that is nested, repeated or large beyond reason, or key that is no text.

    Also of data that contains itself, which YAML can say.

    Returns:
        The place and what is wrong with it; None when nothing is.
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
        if isinstance(value, dict) and (wrong := [name for name in value if not _is_key(name)]):
            return (
                f"{prefix:.300}{wrong[0]!r:.80}: a key must be text that can be printed; "
                "numbers, true and null need quotes"
            )
        waiting += [(f"{prefix}{name!s:.80}", item, depth + 1) for name, item in inner]
    return None


def _is_key(name: object) -> bool:
    return isinstance(name, str) and name != "" and name.isprintable()


def printable(part: object) -> str:
    """A part of a message: on one line, whatever it holds."""
    text = str(part)
    return text if text.isprintable() else repr(text)
