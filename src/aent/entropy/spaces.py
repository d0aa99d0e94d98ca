"""Token spaces: which tokens of a policy count, as a threshold a row.

Every space keeps the tokens above a threshold, so that a row's space is two numbers: the threshold
and the share of the tokens that lie exactly on it. Where a space has fewer places left than tokens
on its threshold, these share the places equally. The entropy is then that of any way of breaking
the tie, and the result does not depend on the order of the vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aent.config.method import FullSpace, MinP, Nucleus, RankFraction, Space, TopK
from aent.entropy.rows import Cut, Rows


def is_whole(space: Space, size: int) -> bool:
    """Tell whether a space keeps every token of a vocabulary of that size, whatever the policy."""
    if isinstance(space, RankFraction):
        return int(space.drop * size) == 0
    if isinstance(space, TopK):
        return space.k >= size
    if isinstance(space, Nucleus):
        return space.mass >= 1.0
    return isinstance(space, FullSpace)


def cut(space: Space, scores: Tensor, rows: Rows) -> Cut | None:
    """Find the token space of each row.

    Args:
        space: Token space.
        scores: [R, V] base-2 logarithms of the probabilities, up to a constant a row.
        rows: How rows are worked on.

    Returns:
        The cut, or None where the space is the whole vocabulary.
    """
    size = scores.shape[1]
    if is_whole(space, size):
        return None
    if isinstance(space, RankFraction):
        return rows.drop(scores, int(space.drop * size))
    if isinstance(space, TopK):
        return rows.drop(scores, size - space.k)
    if isinstance(space, Nucleus):
        return rows.keep(scores, space.mass)
    if isinstance(space, MinP):
        return _keep_above(scores, math.log2(space.epsilon))
    raise TypeError(f"unknown token space {space!r}")


def _keep_above(scores: Tensor, threshold: float) -> Cut:
    """Keep the tokens whose score is at most so far below the row's largest."""
    column = scores.amax(1) + threshold
    # Just below the threshold no token ties, and none need be counted.
    below = torch.nextafter(column, torch.full_like(column, -math.inf))
    return Cut(below, torch.ones_like(column), torch.zeros_like(column))
