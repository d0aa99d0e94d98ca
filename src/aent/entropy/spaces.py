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
from aent.entropy.selection import Cut, descending, kth_smallest


def is_whole(space: Space, size: int) -> bool:
    """Tell whether a space keeps every token of a vocabulary of that size, whatever the policy."""
    if isinstance(space, RankFraction):
        return int(space.drop * size) == 0
    if isinstance(space, TopK):
        return space.k >= size
    if isinstance(space, Nucleus):
        return space.mass >= 1.0
    return isinstance(space, FullSpace)


def rank_of(space: Space, size: int) -> int | None:
    """Number of tokens that a space drops whatever the policy; None where that depends on it."""
    if is_whole(space, size):
        return None
    if isinstance(space, RankFraction):
        return int(space.drop * size)
    return size - space.k if isinstance(space, TopK) else None


def cut(space: Space, scores: Tensor, workspace: Tensor | None = None) -> Cut | None:
    """Find the token space of each row.

    Args:
        space: Token space.
        scores: [R, V] base-2 logarithms of the probabilities, up to a constant a row.
        workspace: [2, at least R * V] bool that may be overwritten.

    Returns:
        The cut, or None where the space is the whole vocabulary.
    """
    size = scores.shape[1]
    if is_whole(space, size):
        return None
    if (rank := rank_of(space, size)) is not None:
        ranked = kth_smallest(scores, rank, workspace)
        places = (size - rank - ranked.above).to(scores.dtype)
        return Cut(ranked.value, places / ranked.tied, places)
    if isinstance(space, Nucleus):
        return _keep_mass(scores, space.mass)
    if isinstance(space, MinP):
        return _keep_above(scores, math.log2(space.epsilon))
    raise TypeError(f"unknown token space {space!r}")


def _keep_mass(scores: Tensor, mass: float) -> Cut:
    """Keep the smallest set of most likely tokens whose probability reaches `mass`."""
    total = torch.exp2(scores).sum(1, dtype=torch.float64)
    # Tokens below an even share of the rest weigh less than the rest together: the set needs none
    # of them. A little less, for rounding.
    light = torch.log2(total * ((1.0 - mass) / scores.shape[1])) - 1e-3
    ordered = descending(scores, light.to(scores.dtype))
    reached = torch.exp2(ordered).cumsum(1, dtype=torch.float64)
    kept = (reached < mass * total[:, None]).sum(1, keepdim=True) + 1
    threshold = torch.gather(ordered, 1, kept - 1)
    places = (kept - (ordered > threshold).sum(1, keepdim=True))[:, 0].to(scores.dtype)
    tied = (ordered == threshold).sum(1)
    return Cut(threshold[:, 0], places / tied, places)


def _keep_above(scores: Tensor, threshold: float) -> Cut:
    """Keep the tokens whose score is at most so far below the row's largest."""
    column = scores.amax(1) + threshold
    # Just below the threshold no token ties, and none need be counted.
    below = torch.nextafter(column, torch.full_like(column, -math.inf))
    return Cut(below, torch.ones_like(column), torch.zeros_like(column))
