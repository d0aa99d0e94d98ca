"""Tiles of logits: how large they are, and how one is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

LN2 = math.log(2.0)
FLOOR = {torch.float32: -100.0, torch.float64: -900.0}
"""Smallest relative score: no probability is denormal or 0, so that 0 * inf cannot occur."""


@dataclass(frozen=True)
class Tiles:
    """How much is computed at once. Changes time and memory, never what is computed."""

    rows: int
    """Tokens whose logits over the whole vocabulary exist at once in the forward pass."""
    tokens: int
    """Tokens of a tile of the backward pass."""
    vocabulary: int
    """Vocabulary entries of a tile of the backward pass."""
    selected: int
    """Logits among which ranks are selected at once: enough to hide the cost of a call."""
    cached: int
    """Logits that the elementwise work touches at once, so that they stay in a core's cache."""


def default_tiles(vocabulary: int, device: torch.device) -> Tiles:
    """Choose the tiles: on a CPU at most 80 MB of float32 logits, on others 512 MB."""
    if device.type != "cpu":
        rows = max(16, (1 << 27) // vocabulary)
        return Tiles(rows, tokens=4096, vocabulary=32768, selected=1 << 27, cached=1 << 27)
    if vocabulary <= 8192:
        rows = max(16, (1 << 20) // vocabulary)
        return Tiles(rows, tokens=rows, vocabulary=vocabulary, selected=1 << 20, cached=1 << 17)
    rows = max(16, 20_000_000 // vocabulary)
    return Tiles(rows, tokens=1024, vocabulary=8192, selected=1 << 20, cached=1 << 17)


def spans(total: int, step: int) -> Iterator[slice]:
    """Cut a range into slices of at most `step`, as even as they can be.

    Even slices are never tiny: a matrix product with one or two rows takes another path through
    the BLAS, which rounds otherwise, and a logit that rounds otherwise leaves its tie.
    """
    count = -(-total // step)
    for part in range(count):
        yield slice(part * total // count, (part + 1) * total // count)


class Scores:
    """Tiles of scores: logits over temperature in bits (divided by log 2).

    In bits because `exp2` takes a third of `exp`'s time. In float32 and float64 the matrix product
    itself applies the scale; narrower logits are rounded first, as a model's head rounds them.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float
    ) -> None:
        self.hidden, self.weight, self.bias = hidden, weight, bias
        self.wide = hidden.dtype in (torch.float32, torch.float64)
        self.dtype = hidden.dtype if self.wide else torch.float32
        scale = 1.0 / (LN2 * temperature)
        self.inner_scale, self.outer_scale = (scale, 1.0) if self.wide else (1.0, scale)

    def buffer(self, tokens: int, vocabulary: int) -> Tensor:
        """Allocate room for tiles of at most that size."""
        return self.hidden.new_empty(tokens * vocabulary)

    def tile(self, tokens: slice, vocabulary: slice, buffer: Tensor) -> Tensor:
        """Compute a tile in the inputs' dtype, before the outer scale, in the buffer."""
        hidden, weight = self.hidden[tokens], self.weight[vocabulary]
        out = buffer[: len(hidden) * len(weight)].view(len(hidden), len(weight))
        # With beta 0 the first argument is not read.
        added, beta = (out, 0.0) if self.bias is None else (self.bias[vocabulary], 1.0)
        torch.addmm(
            added,
            hidden,
            weight.t(),
            beta=beta * self.inner_scale,
            alpha=self.inner_scale,
            out=out,
        )
        return out

    def widen(self, tile: Tensor, scratch: Tensor) -> Tensor:
        """Return rows of a tile in the dtype of the sums: themselves, or a copy in `scratch`."""
        return tile if self.wide else scratch[: tile.numel()].view(tile.shape).copy_(tile)

    def relative(self, scores: Tensor, maximum: Tensor) -> Tensor:
        """Shift rows by their maximum, [R, 1], and lift what is below the floor onto it, in place."""
        scores.sub_(maximum)
        if self.outer_scale != 1.0:
            scores.mul_(self.outer_scale)
        return scores.clamp_(min=FLOOR[self.dtype])
