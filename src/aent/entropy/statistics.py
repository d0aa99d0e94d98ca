"""Log-probability, entropy and clamped entropy of each token, without the logits of all of them.

What differs from the textbook: the logits of a few rows at a time are computed, reduced to a
handful of numbers a token and thrown away; the backward pass computes them again in tiles. No
tensor of tokens x vocabulary ever exists. One pass over a tile yields the gradients of all four
outputs: with lp a token's log-probability, w its weight in the space (0, 1, or the share of a tie),
K the kept mass, H and Hc the two entropies, the gradient of a logit is

    exp(lp) * (A + B * lp + w * (C + D * (lp - log K))) + g_logprob * [token is the target]
    A = -(g_logprob + g_H * H + g_K * K)    B = -g_H
    C = g_K - g_Hc * Hc / K                 D = -g_Hc / K

Scores are kept in base 2, relative to their row's maximum: `exp2` takes a third of `exp`'s time,
and maximum and log-sum stay apart because their sum loses the digits of large logits.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aent.config.method import FullSpace, Space
from aent.entropy.gradients import GradientSums, LogitGradient
from aent.entropy.reduction import Saved, reduce_rows
from aent.entropy.rows import LN2, rows_for
from aent.entropy.spaces import make_cutter
from aent.entropy.tiles import Head, Parts, Tiles, default_tiles, spans

MIN_TOKENS = 8
"""Fewer tokens are padded: see `spans`."""


class TokenStatistics(NamedTuple):
    """Statistics of the policy at each position; each of shape [N]."""

    logprob: Tensor
    """Log-probability of the target token, in nats."""
    entropy: Tensor
    """Entropy over the whole vocabulary, in nats."""
    clamped_entropy: Tensor
    """Entropy of the policy renormalised on its token space, in nats."""
    kept_mass: Tensor
    """Probability of the token space, in (0, 1]."""


def token_statistics(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    space: Space = FullSpace(),  # noqa: B008  (frozen)
    bias: Tensor | None = None,
    tiles: Tiles | None = None,
) -> TokenStatistics:
    """Compute log-probabilities and entropies of softmax((hidden @ weight.T + bias) / temperature).

    All four outputs are differentiable with respect to `hidden`, `weight` and `bias`; the choice
    of the token space is not (arXiv 2509.03493). Outputs whose gradient is not asked for cost
    nothing in the backward pass. Under autocast the inputs are cast, as a model's head casts them.

    Args:
        hidden: [N, H] last hidden states, float32, bfloat16, float16 or float64.
        weight: [V, H] output embedding, of the same dtype and device.
        targets: [N] int64 tokens whose log-probability is wanted.
        temperature: Divides the logits.
        space: Token space of the clamped entropy.
        bias: [V] added to the logits; -inf entries exclude tokens.
        tiles: Sizes of the tiles; chosen from the shapes when absent.

    Returns:
        Statistics, each [N], float32 (float64 for float64 inputs).

    Raises:
        ValueError: A shape, dtype, device, target or the temperature is not as described.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    _check(hidden, weight, targets, temperature, bias)
    count = hidden.shape[0]
    if 0 < count < MIN_TOKENS:
        hidden = torch.nn.functional.pad(hidden, (0, 0, 0, MIN_TOKENS - count))
        targets = torch.nn.functional.pad(targets, (0, MIN_TOKENS - count))
    tiles = tiles or default_tiles(weight.shape[0], weight.device)
    outputs = _TokenStatistics.apply(hidden, weight, bias, targets, temperature, space, tiles)
    return TokenStatistics(*(output[:count] for output in outputs))


def _check(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, bias: Tensor | None
) -> None:
    """Raise ValueError that names the argument at fault."""
    if hidden.ndim != 2:
        raise ValueError(f"hidden must be [N, H], got shape {tuple(hidden.shape)}")
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[1] or weight.shape[0] == 0:
        raise ValueError(
            f"weight must be [V, {hidden.shape[1]}] with V > 0 to fit hidden "
            f"{tuple(hidden.shape)}, got shape {tuple(weight.shape)}"
        )
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"targets must be int64 of shape ({hidden.shape[0]},), "
            f"got {targets.dtype} of shape {tuple(targets.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [{weight.shape[0]}], got shape {tuple(bias.shape)}")
    if not hidden.is_floating_point():
        raise ValueError(f"hidden must be floating point, got {hidden.dtype}")
    for name, tensor in (("weight", weight), ("bias", bias), ("targets", targets)):
        if tensor is None:
            continue
        if tensor.device != hidden.device:
            raise ValueError(f"{name} is on {tensor.device}, hidden on {hidden.device}")
        if name != "targets" and tensor.dtype != hidden.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, hidden is {hidden.dtype}")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be a positive number, got {temperature}")
    if targets.numel():
        low, high = (int(bound) for bound in torch.aminmax(targets))
        if low < 0 or high >= weight.shape[0]:
            raise ValueError(
                f"targets must be in [0, {weight.shape[0]}), got values from {low} to {high}"
            )


def _sums(hidden: Tensor, temperature: float) -> tuple[torch.dtype, float]:
    """Dtype in which rows are summed, and what turns a logit into bits of score."""
    wide = hidden.dtype in (torch.float32, torch.float64)
    return hidden.dtype if wide else torch.float32, 1.0 / (LN2 * temperature)


class _TokenStatistics(torch.autograd.Function):
    """The fused operation; see the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        space: Space,
        tiles: Tiles,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        count, size = hidden.shape[0], weight.shape[0]
        dtype, scale = _sums(hidden, temperature)
        head = Head(hidden, weight, bias, tiles.rows, size)
        rows, parts = rows_for(hidden.device, dtype, scale), Parts(tiles, dtype)
        saved = Saved(*(hidden.new_empty(count, dtype=dtype) for _ in Saved._fields))
        logprob = torch.empty_like(saved.entropy)
        cut = make_cutter(space, size)
        for chunk in spans(count, tiles.rows):
            for part, logits in parts(head.tile(chunk, slice(0, size))):
                at = slice(chunk.start + part.start, chunk.start + part.stop)
                logprob[at], reduced = reduce_rows(rows, logits, targets[at], cut)
                for field, value in zip(saved, reduced, strict=True):
                    field[at] = value
        ctx.save_for_backward(hidden, weight, bias, targets, *saved)
        ctx.temperature, ctx.tiles = temperature, tiles
        ctx.whole = cut is None
        return logprob, saved.entropy, saved.clamped, saved.kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, *fields = ctx.saved_tensors
        if all(grad is None for grad in grads):
            return (None,) * 7
        saved = Saved(*fields)
        count, size, tiles = len(hidden), len(weight), ctx.tiles
        dtype, scale = _sums(hidden, ctx.temperature)
        head = Head(hidden, weight, bias, tiles.tokens, tiles.vocabulary)
        rows, parts = rows_for(hidden.device, dtype, scale), Parts(tiles, dtype)
        gradient = LogitGradient.of(saved, grads, temperature=ctx.temperature, whole=ctx.whole)
        sums = GradientSums(head, ctx.needs_input_grad[:3], tiles, dtype)
        for columns in spans(size, tiles.vocabulary):
            chosen = gradient.at_targets(targets, columns)
            for chunk in spans(count, tiles.tokens):
                tile = head.tile(chunk, columns)
                for part, logits in parts(tile):
                    at = slice(chunk.start + part.start, chunk.start + part.stop)
                    rows.to_gradients(logits, saved.shift[at, None], gradient.part(at))
                    if chosen is not None:
                        logits.scatter_add_(1, chosen[0][at], chosen[1][at])
                    if tile.dtype != dtype:
                        tile[part] = logits
                sums.add(tile, chunk, columns)
            sums.close(columns)
        return (*sums.results(), None, None, None, None)
