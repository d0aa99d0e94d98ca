"""A process's share of a batch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """Which prompts of a larger batch are sampled here: noise depends on the place in all of it."""

    places: list[int]
    """Of each prompt, in the whole batch."""
    total: int
    """Prompts of the whole batch."""
