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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from aent.config.method import FullSpace, Space
from aent.entropy.spaces import Cut, cut

LN2 = math.log(2.0)
FLOOR = {torch.float32: -100.0, torch.float64: -900.0}
"""Smallest score in bits: no probability is denormal or 0, so that 0 * inf cannot occur."""


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


@dataclass(frozen=True)
class Tiles:
    """How much is computed at once. Changes time and memory, never the result's meaning."""

    rows: int
    """Tokens whose logits over the whole vocabulary exist at once in the forward pass."""
    tokens: int
    """Tokens of a tile of the backward pass."""
    vocabulary: int
    """Vocabulary entries of a tile of the backward pass."""
    cached: int = 1 << 18
    """Logits that the elementwise work touches at once: they stay in the core's cache."""


def default_tiles(tokens: int, vocabulary: int) -> Tiles:
    """Choose tiles for a problem's shape: at most 80 MB of float32 logits at once."""
    width = min(vocabulary, 8192)
    return Tiles(
        rows=max(1, min(256, 20_000_000 // max(1, vocabulary))),
        tokens=max(1, min(tokens, 1 << 23) if width < vocabulary else 256),
        vocabulary=max(1, width),
    )


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
    nothing in the backward pass.

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
    _check(hidden, weight, targets, temperature, bias)
    tiles = tiles or default_tiles(hidden.shape[0], weight.shape[0])
    outputs = _TokenStatistics.apply(hidden, weight, bias, targets, temperature, space, tiles)
    return TokenStatistics(*outputs)


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


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _spans(total: int, step: int) -> Iterator[slice]:
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


class _Head:
    """Logits of tiles, and the same logits as scores in bits relative to the row's maximum."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float):
        self.hidden, self.weight, self.bias = hidden, weight, bias
        self.scale = 1.0 / (LN2 * temperature)
        self.floor = FLOOR[_accumulator(hidden.dtype)]

    def logits(self, tokens: slice, vocabulary: slice, buffer: Tensor) -> Tensor:
        """Return [tokens, vocabulary] logits in the inputs' dtype, in the buffer."""
        hidden, weight = self.hidden[tokens], self.weight[vocabulary]
        out = buffer[: hidden.shape[0] * weight.shape[0]].view(hidden.shape[0], weight.shape[0])
        torch.mm(hidden, weight.t(), out=out)
        if self.bias is not None:
            out += self.bias[vocabulary]
        return out


class _Rows(NamedTuple):
    """What the forward pass learns of each token and the backward pass needs; each [N]."""

    maximum: Tensor
    total: Tensor
    threshold: Tensor
    share: Tensor


def _row_statistics(scores: Tensor, masses: Tensor, space: Space) -> tuple[Tensor, ...]:
    """Reduce rows to sums.

    Args:
        scores: [R, V] in bits, maximum 0.
        masses: [R, V] scratch.
        space: Token space.

    Returns:
        total, entropy, clamped entropy, kept mass, threshold, share: each [R].
    """
    torch.exp2(scores, out=masses)
    total = masses.sum(1)
    entropy = total.log() - LN2 * _dot(masses, scores) / total
    found = cut(space, scores, masses)
    if found is None:
        never = torch.full_like(total, -math.inf)
        return total, entropy, entropy, torch.ones_like(total), never, torch.ones_like(total)
    kept, weighted = _kept_sums(scores, masses, found)
    clamped = kept.log() - LN2 * weighted / kept
    return total, entropy, clamped, kept / total, found.threshold, found.share


def _kept_sums(scores: Tensor, masses: Tensor, found: Cut) -> tuple[Tensor, Tensor]:
    """Sum masses and masses * scores over the space. Overwrites `masses`."""
    masses.mul_(scores > found.threshold[:, None])
    tied = found.places * torch.exp2(found.threshold)
    return masses.sum(1) + tied, _dot(masses, scores) + tied * found.threshold


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Row-wise inner products of [R, V] matrices."""
    return torch.linalg.vecdot(left, right)


class _TokenStatistics(torch.autograd.Function):
    """The fused operation; see the module's docstring."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature, space, tiles):
        ctx.set_materialize_grads(False)
        count, size = hidden.shape[0], weight.shape[0]
        dtype = _accumulator(hidden.dtype)
        head = _Head(hidden, weight, bias, temperature)
        buffer = hidden.new_empty(min(tiles.rows, max(count, 1)) * size)
        names = ("logprob", "maximum", "total", "entropy", "clamped", "kept", "threshold", "share")
        rows = {name: hidden.new_empty(count, dtype=dtype) for name in names}
        step = max(1, tiles.cached // size)
        masses_buffer = hidden.new_empty((step, size), dtype=dtype)
        scores_buffer = torch.empty_like(masses_buffer)
        whole = slice(0, size)
        for chunk in _spans(count, tiles.rows):
            logits = head.logits(chunk, whole, buffer)
            for part in _spans(logits.shape[0], step):
                at = slice(chunk.start + part.start, chunk.start + part.stop)
                height = part.stop - part.start
                scores = scores_buffer[:height].copy_(logits[part])
                maximum = scores.amax(1)
                chosen = scores.gather(1, targets[at, None])[:, 0] - maximum
                scores.sub_(maximum[:, None]).mul_(head.scale).clamp_(min=head.floor)
                sums = _row_statistics(scores, masses_buffer[:height], space)
                rows["maximum"][at] = maximum
                rows["logprob"][at] = chosen / temperature - sums[0].log()
                for name, value in zip(names[2:], sums, strict=True):
                    rows[name][at] = value
        ctx.save_for_backward(hidden, weight, bias, targets, *(rows[n] for n in names[1:]))
        ctx.temperature, ctx.tiles = temperature, tiles
        return rows["logprob"], rows["entropy"], rows["clamped"], rows["kept"]

    @staticmethod
    def backward(ctx, g_logprob, g_entropy, g_clamped, g_kept):
        hidden, weight, bias, targets, *saved = ctx.saved_tensors
        maximum, total, entropy, clamped, kept, threshold, share = saved
        grads = [g_logprob, g_entropy, g_clamped, g_kept]
        if all(g is None for g in grads):
            return (None,) * 7
        g_logprob, g_entropy, g_clamped, g_kept = (
            torch.zeros_like(total) if g is None else g for g in grads
        )
        dtype, tiles = total.dtype, ctx.tiles
        count, size = hidden.shape[0], weight.shape[0]
        head = _Head(hidden, weight, bias, ctx.temperature)
        # exp(lp) = exp2(score) / total and lp = LN2 * score - log(total).
        log_total = total.log()
        log_kept = log_total + kept.log()
        factor = 1.0 / (total * ctx.temperature)
        a = -(g_logprob + g_entropy * entropy + g_kept * kept) + g_entropy * log_total
        b = -g_entropy * LN2
        d = -g_clamped / kept
        c = g_kept + d * (clamped - log_kept)
        a, b, c, d = (v * factor for v in (a, b, c, d * LN2))
        onehot = g_logprob / ctx.temperature
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden, dtype=dtype) if need_hidden else None
        grad_weight = torch.empty_like(weight) if need_weight else None
        grad_bias = torch.empty_like(bias) if need_bias else None
        buffer = hidden.new_empty(min(tiles.tokens, max(count, 1)) * min(tiles.vocabulary, size))
        for columns in _spans(size, tiles.vocabulary):
            width = columns.stop - columns.start
            sum_weight = torch.zeros((width, hidden.shape[1]), dtype=dtype) if need_weight else None
            sum_bias = torch.zeros(width, dtype=dtype) if need_bias else None
            for chunk in _spans(count, tiles.tokens):
                logits = head.logits(chunk, columns, buffer)
                x = logits.to(dtype, copy=True).sub_(maximum[chunk, None])
                x.mul_(head.scale).clamp_(min=head.floor)
                weights = (x > threshold[chunk, None]).to(dtype)
                weights += (x == threshold[chunk, None]) * share[chunk, None]
                g = x.exp2() * (
                    a[chunk, None]
                    + b[chunk, None] * x
                    + weights * (c[chunk, None] + d[chunk, None] * x)
                )
                inside = (targets[chunk] >= columns.start) & (targets[chunk] < columns.stop)
                index = (targets[chunk] - columns.start).clamp(0, width - 1)
                g.scatter_add_(1, index[:, None], (onehot[chunk] * inside)[:, None])
                if need_bias:
                    sum_bias += g.sum(0)
                g = g.to(hidden.dtype)
                if need_hidden:
                    grad_hidden[chunk] += g @ weight[columns]
                if need_weight:
                    sum_weight += g.t() @ hidden[chunk]
            if need_weight:
                grad_weight[columns] = sum_weight
            if need_bias:
                grad_bias[columns] = sum_bias
        grad_hidden = grad_hidden.to(hidden.dtype) if need_hidden else None
        return grad_hidden, grad_weight, grad_bias, None, None, None, None
