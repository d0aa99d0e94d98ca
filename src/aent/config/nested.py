"""Nested dictionaries, as YAML gives them: a method before it is checked."""

from __future__ import annotations

import copy
from typing import Any

from aent.config.error import ConfigError


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A deep copy of `base` with `changes` laid over it; a changed `kind` replaces the whole."""
    merged = copy.deepcopy(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = copy.deepcopy(value)
        if isinstance(old, dict) and isinstance(value, dict):
            kind = old.get("kind")
            if value.get("kind", kind) == kind:
                merged[key] = merge(old, value)
    return merged


def value_at(data: dict[str, Any], key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for part in key.split("."):
        if not isinstance(data, dict) or part not in data:
            return None
        data = data[part]
    return data


def put_at(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Put a value at a dotted key.

    Args:
        data: what is changed.
        key: its last part may be new; what leads there must exist.
        value: the value.
        where: what the data is, for the message.

    Raises:
        ConfigError: there is no way to the key.
    """
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(data.get(parent), dict):
            raise ConfigError(f"{where}: the method has no {parent!r} on the way to {key!r}")
        data = data[parent]
    data[last] = value
