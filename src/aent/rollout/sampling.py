"""Choosing the next token: one uniform number a row, few passes over [rows, vocabulary]."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from aent.rollout.engine import Sampling

NUCLEUS_GUESSES = (64, 1024)
"""Most likely tokens in which a nucleus is looked for before whole vocabularies are sorted."""


def choose(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Sample a token a row by inverting the cumulative distribution.

    A row's choice depends on its own logits and number only, so that it does not matter which rows
    are sampled together.

    Args:
        logits: [B, V] float32; may be overwritten.
        uniform: [B] in [0, 1), float64: single precision would never choose a rare token.
        sampling: temperature, top-k and top-p.

    Returns:
        Tokens [B] and their log-probabilities [B] under softmax(logits / temperature) over the
        whole vocabulary. NaN where a row of logits is not finite.
    """
    if sampling.temperature != 1.0:
        logits /= sampling.temperature
    # In place: fresh memory of this size costs as much as the arithmetic.
    masses = torch.softmax(logits, dim=1, out=logits)
    if sampling.top_k is None and sampling.top_p == 1.0:
        tokens = invert(masses, uniform)
    else:
        largest, tokens = _largest(masses)
        # Where the most likely token alone has the share top_p, there is nothing left to choose.
        rows = (largest < sampling.top_p).nonzero().squeeze(1)
        if len(rows) and sampling.top_k != 1:
            candidates, kept = filtered(masses[rows], sampling.top_k, sampling.top_p)
            place = invert(kept, uniform[rows])
            tokens[rows] = candidates.gather(1, place[:, None]).squeeze(1)
    return tokens, masses.gather(1, tokens[:, None]).squeeze(1).log()


def filtered(masses: Tensor, top_k: int | None, top_p: float) -> tuple[Tensor, Tensor]:
    """The tokens that top-k and then top-p leave, most likely first.

    Args:
        masses: [B, V], probabilities up to a factor a row.
        top_k: most likely tokens kept; None for all.
        top_p: of those, the smallest set of most likely ones whose share reaches top_p is kept.

    Returns:
        Token ids [B, K] and their masses [B, K], zero for tokens that top-p drops; where top_p
        needs only K tokens of the vocabulary, only those.
    """
    if top_k is not None:
        kept, tokens = masses.topk(min(top_k, masses.shape[1]), dim=1)
        goal = top_p * kept.double().sum(dim=1, keepdim=True)
    else:
        goal = top_p * masses.double().sum(dim=1, keepdim=True)
        for width in (*NUCLEUS_GUESSES, masses.shape[1]):
            kept, tokens = masses.topk(min(width, masses.shape[1]), dim=1)
            if bool((kept.double().sum(dim=1, keepdim=True) >= goal).all()):
                break
    before = kept.double().cumsum(dim=1) - kept
    return tokens, kept * (before < goal)


def invert(masses: Tensor, uniform: Tensor) -> Tensor:
    """Indices [B], in proportion to masses [B, K], where the cumulative share passes `uniform` [B].

    Two levels, blocks and then the chosen block, so that only one pass touches all of the masses.
    """
    parts = _blocks(masses)
    sums = parts.sum(dim=2).double()
    edges = sums.cumsum(dim=1)
    target = uniform * edges[:, -1]
    block = _first_above(edges, sums, target)
    at = torch.arange(len(masses), device=masses.device)
    inside = parts[at, block].double()
    target -= edges[at, block] - sums[at, block]
    return block * parts.shape[2] + _first_above(inside.cumsum(dim=1), inside, target)


def _first_above(edges: Tensor, masses: Tensor, target: Tensor) -> Tensor:
    """First place [B] whose upper edge [B, K] exceeds target [B]; never a place without mass."""
    first = (edges <= target[:, None]).sum(dim=1)
    # Rounding may put the target at the very end: then the last place with mass.
    last = (edges.shape[1] - 1) - (masses > 0).flip(1).to(torch.uint8).argmax(dim=1)
    return torch.minimum(first, last)


def _largest(masses: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value [B] of each row [B, V] and its place [B]; `max(dim)` is far slower."""
    parts = _blocks(masses)
    tops = parts.amax(dim=2)
    block = tops.argmax(dim=1)
    at = torch.arange(len(masses), device=masses.device)
    return tops[at, block], block * parts.shape[2] + parts[at, block].argmax(dim=1)


def _blocks(masses: Tensor) -> Tensor:
    """Rows [B, K] cut into about sqrt(K) blocks: [B, blocks, width], padded by zeros if need be."""
    rows, size = masses.shape
    width = _width(size)
    if size % width:
        masses = torch.nn.functional.pad(masses, (0, width - size % width))
    return masses.view(rows, -1, width)


@cache
def _width(size: int) -> int:
    """The divisor of `size` next below its root, so that nothing is copied; the root if too small.

    Vocabularies have a divisor of 128 or 64 more often than not.
    """
    root = math.isqrt(size)
    width = next(width for width in range(root, 0, -1) if size % width == 0)
    return width if width >= root // 8 else root
