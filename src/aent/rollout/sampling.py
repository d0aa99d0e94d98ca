"""Choosing the next token: one uniform number a row, few passes over [rows, vocabulary]."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aent.rollout.engine import Sampling


def choose(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Sample a token a row by inverting the cumulative distribution.

    A row's choice depends on its own logits and number only, so that it does not matter which rows
    are sampled together.

    Args:
        logits: [B, V] float32; overwritten.
        uniform: [B] in [0, 1), float64.
        sampling: temperature, top-k and top-p.

    Returns:
        Tokens [B] and their log-probabilities [B] under softmax(logits / temperature) over the
        whole vocabulary.
    """
    if sampling.temperature != 1.0:
        logits /= sampling.temperature
    top = logits.amax(dim=1, keepdim=True)
    logits -= top
    masses = logits.exp()
    if sampling.top_k is None and sampling.top_p >= 1.0:
        tokens, total = _invert(masses, uniform)
    else:
        total = masses.sum(dim=1)
        candidates, kept = filtered(masses, sampling.top_k, sampling.top_p)
        place, _ = _invert(kept, uniform)
        tokens = candidates.gather(1, place[:, None]).squeeze(1)
    logprobs = logits.gather(1, tokens[:, None]).squeeze(1) - total.log()
    return tokens, logprobs


def filtered(masses: Tensor, top_k: int | None, top_p: float) -> tuple[Tensor, Tensor]:
    """The tokens that top-k and then top-p leave, most likely first.

    Args:
        masses: [B, V], probabilities up to a factor a row.
        top_k: most likely tokens kept; None for all.
        top_p: of those, the smallest set of most likely ones whose share reaches top_p is kept.

    Returns:
        Token ids [B, K] and their masses [B, K], zero for tokens that top-p drops.
    """
    if top_k is None:
        kept, tokens = masses.sort(dim=1, descending=True, stable=True)
    else:
        kept, tokens = _largest(masses, min(top_k, masses.shape[1]))
    if top_p < 1.0:
        before = kept.double().cumsum(dim=1) - kept
        kept = kept * (before < top_p * kept.double().sum(dim=1, keepdim=True))
    return tokens, kept


def _largest(masses: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, in order: they lie in the k blocks with the largest maxima."""
    rows, size = masses.shape
    width = 32
    blocks = size // width
    if k >= blocks // 2:
        return masses.topk(k, dim=1)
    body = masses[:, : blocks * width].view(rows, blocks, width)
    best = body.amax(dim=2).topk(k, dim=1, sorted=False).indices
    chosen = body.gather(1, best[:, :, None].expand(-1, -1, width)).flatten(1)
    ids = (best[:, :, None] * width + torch.arange(width, device=masses.device)).flatten(1)
    if blocks * width < size:
        tail = torch.arange(blocks * width, size, device=masses.device)
        chosen = torch.cat([chosen, masses[:, tail]], dim=1)
        ids = torch.cat([ids, tail.expand(rows, -1)], dim=1)
    values, places = chosen.topk(k, dim=1)
    return values, ids.gather(1, places)


def _invert(masses: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Sample [B] indices in proportion to masses [B, K]; also gives the rows' sums [B].

    Two levels, blocks and then the chosen block, so that only one pass touches all of the masses.
    """
    rows, size = masses.shape
    width = max(1, math.isqrt(size))
    blocks = -(-size // width)
    if blocks * width != size:
        masses = torch.nn.functional.pad(masses, (0, blocks * width - size))
    parts = masses.view(rows, blocks, width)
    sums = parts.sum(dim=2).double()
    edges = sums.cumsum(dim=1)
    target = uniform * edges[:, -1]
    # The last block with mass, at most: rounding must not lead past the end.
    last = (blocks - 1) - (sums > 0).flip(1).to(torch.uint8).argmax(dim=1)
    block = torch.minimum((edges <= target[:, None]).sum(dim=1), last)
    at = torch.arange(rows, device=masses.device)
    inside = parts[at, block].double()
    target -= edges[at, block] - sums[at, block]
    last = (width - 1) - (inside > 0).flip(1).to(torch.uint8).argmax(dim=1)
    place = torch.minimum((inside.cumsum(dim=1) <= target[:, None]).sum(dim=1), last)
    return block * width + place, edges[:, -1].to(masses.dtype)
