"""Tiles of logits: how large they are, and how one is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

LN2 = math.log(2.0)
FEW, LARGE, COLUMNS = 512, 1 << 22, 512
"""On a CPU a product with few rows of a large weight is computed so many columns at a time: BLAS
first copies the weight into an order of its own, and should find the copy in the cache."""
FLOOR = {torch.float32: -100.0, torch.float64: -900.0}
"""Smallest score: no probability is denormal or 0, so that 0 * inf cannot occur."""


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
    """Choose the tiles: on a CPU at most 80 MB of float32 logits, on other devices 134 MB."""
    if device.type != "cpu":
        rows = max(16, (1 << 25) // vocabulary)
        return Tiles(rows, tokens=1024, vocabulary=32768, selected=1 << 24, cached=1 << 24)
    if vocabulary <= 8192:
        rows = max(16, (1 << 20) // vocabulary)
        return Tiles(rows, tokens=rows, vocabulary=vocabulary, selected=1 << 20, cached=1 << 17)
    rows = max(16, 20_000_000 // vocabulary)
    return Tiles(rows, tokens=1024, vocabulary=4096, selected=1 << 20, cached=1 << 17)


def spans(total: int, step: int) -> Iterator[slice]:
    """Cut a range into slices of at most `step`, as even as they can be.

    Even slices are never tiny: a matrix product with one or two rows takes another path through
    the BLAS, which rounds otherwise, and a logit that rounds otherwise leaves its tie.
    """
    count = -(-total // step)
    for part in range(count):
        yield slice(part * total // count, (part + 1) * total // count)


class Scores:
    """Tiles of logits, and how they become scores.

    Scores are logits over temperature, relative to the row's largest, in bits (divided by log 2),
    because `exp2` takes a third of `exp`'s time.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float
    ) -> None:
        self.hidden, self.weight, self.bias = hidden, weight, bias
        self.wide = hidden.dtype in (torch.float32, torch.float64)
        self.dtype = hidden.dtype if self.wide else torch.float32
        self.scale = 1.0 / (LN2 * temperature)

    def buffer(self, tokens: int, vocabulary: int) -> Tensor:
        """Allocate room for tiles of at most that size."""
        return self.hidden.new_empty(tokens * vocabulary)

    def tile(self, tokens: slice, vocabulary: slice, buffer: Tensor) -> Tensor:
        """Compute a tile of logits, before the temperature, in the inputs' dtype, in the buffer."""
        hidden, weight = self.hidden[tokens], self.weight[vocabulary]
        out = buffer[: len(hidden) * len(weight)].view(len(hidden), len(weight))
        few = out.is_cpu and self.wide and len(hidden) < FEW and weight.numel() > LARGE
        step = COLUMNS if few else len(weight)
        for block in spans(len(weight), step):
            columns = weight[block].t()
            if self.bias is None:
                torch.mm(hidden, columns, out=out[:, block])
            else:
                torch.addmm(self.bias[vocabulary][block], hidden, columns, out=out[:, block])
        return out

    def widen(self, tile: Tensor, scratch: Tensor) -> Tensor:
        """Return rows of a tile in the dtype of the sums: themselves, or a copy in `scratch`."""
        return tile if self.wide else scratch[: tile.numel()].view(tile.shape).copy_(tile)

    def shift(self, maximum: Tensor) -> Tensor:
        """What turns scaled logits into scores, given the largest logit of each row."""
        return maximum * -self.scale

    def relative(self, logits: Tensor, shift: Tensor) -> Tensor:
        """Turn logits into scores in place, a fused multiply-add: shift is [R, 1].

        The largest score is 0 but for the rounding of the shift, which is the same for the whole
        row and in every pass, and cancels.
        """
        return torch.add(shift, logits, alpha=self.scale, out=logits)

    def floored(self, scores: Tensor) -> Tensor:
        """Lift scores that are below the floor onto it, in place."""
        return scores.clamp_(min=FLOOR[self.dtype])
