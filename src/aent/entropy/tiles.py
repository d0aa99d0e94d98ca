"""Tiles of logits: how large they are, and how one is computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

FEW, LARGE, COLUMNS = 512, 1 << 22, 512
"""On a CPU a product with few rows of a large weight is computed so many columns at a time: BLAS
first copies the weight into an order of its own, and should find the copy in the cache."""

NATIVE = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16"),
}
"""What a processor must have to multiply narrow numbers, as torch names it: one of these."""
ROUNDED = 8
"""Rows of a tile that are rounded to a narrow dtype at once."""


@dataclass(frozen=True)
class Tiles:
    """How much is computed at once. Changes time and memory, never what is computed."""

    rows: int
    """Tokens whose logits over the whole vocabulary exist at once in the forward pass."""
    tokens: int
    """Tokens of a tile of the backward pass."""
    vocabulary: int
    """Vocabulary entries of a tile of the backward pass."""
    cached: int
    """Logits worked on at once, so that copies of them stay in a core's cache."""


def default_tiles(vocabulary: int, device: torch.device) -> Tiles:
    """Choose the tiles: on a CPU at most 80 MB of float32 logits, on other devices 134 MB."""
    if device.type != "cpu":
        rows = max(16, (1 << 25) // vocabulary)
        return Tiles(rows, tokens=1024, vocabulary=32768, cached=1 << 24)
    if vocabulary <= 8192:
        rows = max(16, (1 << 20) // vocabulary)
        return Tiles(rows, tokens=rows, vocabulary=vocabulary, cached=1 << 18)
    rows = max(16, 20_000_000 // vocabulary)
    return Tiles(rows, tokens=1024, vocabulary=2048, cached=1 << 18)


def spans(total: int, step: int) -> Iterator[slice]:
    """Cut a range into slices of at most `step`, as even as they can be.

    Even slices are never tiny: a matrix product with one or two rows takes another path through
    the BLAS, which rounds otherwise, and a logit that rounds otherwise leaves its tie.
    """
    count = -(-total // step)
    for part in range(count):
        yield slice(part * total // count, (part + 1) * total // count)


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Dtype in which inputs of a dtype are multiplied.

    A CPU without instructions for narrow numbers multiplies them several times as fast in float32.
    """
    names = NATIVE.get(dtype)
    if device.type != "cpu" or names is None:
        return dtype
    able = torch.cpu.get_capabilities()
    return dtype if any(able.get(name, False) for name in names) else torch.float32


class Head:
    """Computes tiles of logits, before the temperature, into a buffer of its own.

    Logits are those of a model's head: rounded to the inputs' dtype, whatever they are multiplied
    in.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: int, vocabulary: int
    ) -> None:
        """Allocate the buffer.

        Args:
            hidden: [N, H].
            weight: [V, H].
            bias: [V] or None.
            tokens: Tokens of the largest tile.
            vocabulary: Vocabulary entries of the largest tile.
        """
        self.hidden, self.weight, self.bias = hidden, weight, bias
        self.dtype = product_dtype(hidden.dtype, hidden.device)
        size = min(tokens, len(hidden)) * min(vocabulary, len(weight))
        self.buffer = hidden.new_empty(size, dtype=self.dtype)
        self.copy: Tensor | None = None
        self.copied: slice | None = None

    def tokens(self, tokens: slice) -> Tensor:
        """Hidden states as they are multiplied."""
        return self.hidden[tokens].to(self.dtype)

    def columns(self, vocabulary: slice) -> Tensor:
        """Part of the weight as it is multiplied; a copy lives until another part is asked for."""
        part = self.weight[vocabulary]
        if part.dtype == self.dtype:
            return part
        if self.copy is None or self.copy.numel() < part.numel():
            self.copy = None  # two need not exist at once
            self.copy = part.new_empty(part.numel(), dtype=self.dtype)
        held = self.copy[: part.numel()].view_as(part)
        if self.copied != vocabulary:
            held.copy_(part)
            self.copied = vocabulary
        return held

    def tile(self, tokens: slice, vocabulary: slice) -> Tensor:
        """Compute a tile in the dtype of the products; it lives until the next one."""
        hidden, width = self.tokens(tokens), vocabulary.stop - vocabulary.start
        out = self.buffer[: len(hidden) * width].view(len(hidden), width)
        wide = out.dtype in (torch.float32, torch.float64)
        few = out.is_cpu and wide and len(hidden) < FEW and width * hidden.shape[1] > LARGE
        for block in spans(width, COLUMNS if few else width):
            at = slice(vocabulary.start + block.start, vocabulary.start + block.stop)
            columns = self.columns(at).t()
            if self.bias is None:
                torch.mm(hidden, columns, out=out[:, block])
            else:
                torch.addmm(self.bias[at].to(self.dtype), hidden, columns, out=out[:, block])
        if out.dtype != self.hidden.dtype:
            for row in out.split(ROUNDED):
                row.copy_(row.to(self.hidden.dtype))
        return out


class Parts:
    """Cuts tiles into parts of a few rows, in the dtype of the sums."""

    def __init__(self, tiles: Tiles, dtype: torch.dtype) -> None:
        self.cached, self.dtype = tiles.cached, dtype
        self.copy: Tensor | None = None

    def __call__(self, tile: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Go through a tile, [R, W].

        Yields:
            Rows, and their logits: a view of the tile, or a copy in a wider dtype that lives until
            the next part.
        """
        step = max(1, self.cached // tile.shape[1])
        for part in spans(len(tile), step):
            if tile.dtype == self.dtype:
                yield part, tile[part]
                continue
            if self.copy is None or self.copy.numel() < tile[part].numel():
                self.copy = tile.new_empty(min(step, len(tile)) * tile.shape[1], dtype=self.dtype)
            yield part, self.copy[: tile[part].numel()].view_as(tile[part]).copy_(tile[part])
