"""What is said of a configuration that is wrong."""

from __future__ import annotations

from pydantic import ValidationError

from aent.config.size import printable
from aent.logs import discreet


class ConfigError(ValueError):
    """The configuration is wrong; the message names each key."""


def describe(error: ValidationError, where: str) -> str:
    """A validation error as one line a problem: key, what is allowed, what was given."""
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(f"{printable(part):.80}" for part in problem["loc"])
        # Ours may be several lines; in pydantic's own stands what was given.
        own = problem["type"] == "value_error"
        message = problem["msg"].removeprefix("Value error, ") if own else printable(problem["msg"])
        given = problem["input"]
        shown = "" if problem["type"] == "missing" or not key else f" (given: {given!r:.200})"
        lines.append(f"{where}: {key + ': ' if key else ''}{message}{shown}")
    return discreet("\n".join(lines))  # a URI's password is refused, and not repeated
