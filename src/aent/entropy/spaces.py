"""Token spaces: which tokens of a policy count, as a threshold a row.

Every space keeps the tokens above a threshold, so that a row's space is two numbers: the threshold
and the share of the tokens that lie exactly on it. Where a space has fewer places left than tokens
on its threshold, these share the places equally. The entropy is then that of any way of breaking
the tie, and the result does not depend on the order of the vocabulary.

A new space is one function here, one line in `SPACES` and one model in `aent.config.method`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aent.config.method import FullSpace, MinP, Nucleus, RankFraction, Space, TopK
from aent.entropy.rows import Cut, Rows

Cutter = Callable[[Tensor, Rows], Cut]
"""Finds the token space of each row of scores [R, V]: base-2 logarithms of the probabilities, up to
a constant a row."""


def full(space: FullSpace, size: int) -> None:
    """Keep the whole vocabulary."""


def rank_fraction(space: RankFraction, size: int) -> Cutter | None:
    """Drop the int(drop * V) least likely tokens."""
    return _dropping(int(space.drop * size))


def top_k(space: TopK, size: int) -> Cutter | None:
    """Keep the k most likely tokens."""
    return _dropping(size - space.k)


def nucleus(space: Nucleus, size: int) -> Cutter | None:
    """Keep the smallest set of most likely tokens whose mass reaches a share."""
    if space.mass >= 1.0:
        return None
    return lambda scores, rows: rows.keep(scores, space.mass)


def min_p(space: MinP, size: int) -> Cutter:
    """Keep the tokens whose probability is at least a share of the row's largest."""
    threshold = math.log2(space.epsilon)

    def keep_above(scores: Tensor, rows: Rows) -> Cut:
        column = scores.amax(1) + threshold
        # Just below the threshold no token ties, and none need be counted.
        below = torch.nextafter(column, torch.full_like(column, -math.inf))
        return Cut(below, torch.ones_like(column), torch.zeros_like(column))

    return keep_above


def _dropping(count: int) -> Cutter | None:
    return (lambda scores, rows: rows.drop(scores, count)) if count > 0 else None


SPACES: dict[str, Callable[[Any, int], Cutter | None]] = {
    "full": full,
    "rank_fraction": rank_fraction,
    "top_k": top_k,
    "nucleus": nucleus,
    "min_p": min_p,
}


def make_cutter(space: Space, size: int) -> Cutter | None:
    """How a space is found in rows of so many tokens; None where it is always all of them."""
    return SPACES[space.kind](space, size)
