"""The k-th smallest value of every row, and how many values lie above it and on it.

Exact on every device. On a CPU all rows of a chunk are narrowed together: a sorted strided sample
brackets the rank, two probes by false position shrink the bracket to a few per cent of the row,
and only the candidates inside it are sorted. Reading a row four times with a comparison costs
about a sixth of partitioning it. Other devices sort with torch, without a copy to the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SAMPLE = 256
"""Values of a row that are sorted to bracket a rank."""

MIN_SAMPLED_ROW = 2048
"""Shorter rows are partitioned whole: a sample would save nothing."""


class Ranked(NamedTuple):
    """Where a rank falls in each row; all of shape [R]."""

    value: Tensor
    """The value of that rank."""
    above: Tensor
    """Values of the row that are greater (int64)."""
    tied: Tensor
    """Values of the row that are equal, the ranked one among them (int64)."""


def kth_smallest(values: Tensor, rank: int) -> Ranked:
    """Return the value of a rank in each row.

    Args:
        values: [R, V] float32 or float64, finite.
        rank: Rank counted from 0 (the smallest) to V - 1.

    Returns:
        Value, values above and values tied, each [R].

    Raises:
        ValueError: The rank is not in a row.
    """
    size = values.shape[1]
    if not 0 <= rank < size:
        raise ValueError(f"rank {rank} is outside a row of {size} values")
    if values.device.type != "cpu":
        return sorted_rank(values, rank)
    rows = values.detach().numpy()
    narrow = narrowed_rank if size >= MIN_SAMPLED_ROW else partitioned_rank
    with _unbuffered():
        value, below, tied = narrow(rows, rank)
    return Ranked(
        torch.from_numpy(value), torch.from_numpy(size - below - tied), torch.from_numpy(tied)
    )


def sorted_rank(values: Tensor, rank: int) -> Ranked:
    """`kth_smallest` with torch alone: the tensors stay on their device."""
    column = torch.sort(values, dim=1).values[:, rank : rank + 1].clone()
    return Ranked(column[:, 0], (values > column).sum(1), (values == column).sum(1))


def partitioned_rank(values: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Partition every row.

    Args:
        values: [R, V].
        rank: Rank counted from 0.

    Returns:
        Value, values below and values tied of each row, each [R].
    """
    value = np.partition(values, rank, axis=1)[:, rank].copy()
    below, tied = values < value[:, None], values == value[:, None]
    return value, count_true(below), count_true(tied)


def narrowed_rank(values: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Narrow a bracket of the rank in all rows at once; arguments and result as above."""
    bracket = _Bracket(values, rank)
    for pivot in _sample_bounds(values, rank):
        bracket.probe(pivot)
    first = bracket.interpolated()
    mask = bracket.probe(first)
    second = bracket.beyond(first)
    candidates = bracket.probe(second)
    np.logical_xor(mask, candidates, out=candidates)
    between = (np.minimum(first, second) == bracket.low) & (
        np.maximum(first, second) == bracket.high
    )
    for row in np.flatnonzero(~between):
        bracket.finish(row)
        candidates[row] = values[row] >= bracket.low[row]
        candidates[row] &= values[row] < bracket.high[row]
    value, below, tied = _rank_among(values, candidates, bracket)
    for row in np.flatnonzero(bracket.crowded()):
        alone = slice(row, row + 1)
        value[alone], below[alone], tied[alone] = partitioned_rank(values[alone], rank)
    return value, below, tied


class _Bracket:
    """Two values a row, [low, high), between which the rank is known to lie."""

    def __init__(self, values: np.ndarray, rank: int) -> None:
        rows, size = values.shape
        self.values, self.rank, self.few = values, rank, max(size // 32, 64)
        self.low, self.high = (np.full(rows, bound, values.dtype) for bound in (-np.inf, np.inf))
        self.below_low, self.below_high = np.zeros(rows, np.int64), np.full(rows, size)

    def probe(self, pivot: np.ndarray) -> np.ndarray:
        """Count the values below a pivot a row, tighten the bracket, return the mask of them."""
        mask = self.values < pivot[:, None]
        below = count_true(mask)
        raises = (below <= self.rank) & (pivot > self.low)
        lowers = (below > self.rank) & (pivot < self.high)
        np.copyto(self.low, pivot, where=raises)
        np.copyto(self.below_low, below, where=raises)
        np.copyto(self.high, pivot, where=lowers)
        np.copyto(self.below_high, below, where=lowers)
        return mask

    def interpolated(self) -> np.ndarray:
        """Where the rank is if the bracket's values are spread evenly."""
        place = (self.rank + 0.5 - self.below_low) / (self.below_high - self.below_low)
        return self._step(self.low, place)

    def beyond(self, pivot: np.ndarray) -> np.ndarray:
        """Step from a pivot that is now a bound to the far side of the rank, with a margin."""
        from_low = pivot == self.low
        missing = np.where(from_low, self.rank - self.below_low, self.below_high - self.rank) + 0.5
        missing += 2.0 * np.sqrt(missing) + 0.2 * missing + 4.0
        place = missing / (self.below_high - self.below_low)
        return self._step(
            np.where(from_low, self.low, self.high), np.where(from_low, place, -place)
        )

    def _step(self, start: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Go a share of the bracket's width from a bound; stay on a bound if one is infinite."""
        finite = np.isfinite(self.low) & np.isfinite(self.high)
        width = np.where(finite, self.high, 0) - np.where(finite, self.low, 0)
        inside = np.clip(np.where(finite, start, 0) + place * width, self.low, self.high)
        known = np.where(np.isfinite(self.low), self.low, self.high)
        return np.where(finite, inside, known).astype(self.values.dtype)

    def finish(self, row: int) -> None:
        """Bisect one row until its candidates are few, or its values too close to separate."""
        values = self.values[row]
        self.low[row] = max(self.low[row], values.min())
        if self.high[row] == np.inf:
            self.high[row] = np.nextafter(values.max(), np.inf)
        while self.below_high[row] - self.below_low[row] > self.few:
            low, high = self.low[row], self.high[row]
            middle = values.dtype.type(low + (high - low) / 2)
            if not low < middle < high:
                return
            below = np.count_nonzero(values < middle)
            if below <= self.rank:
                self.low[row], self.below_low[row] = middle, below
            else:
                self.high[row], self.below_high[row] = middle, below

    def crowded(self) -> np.ndarray:
        """Rows whose bracket holds too many values for the table of candidates."""
        return self.below_high - self.below_low > self.few


def count_true(mask: np.ndarray) -> np.ndarray:
    """Count each row's true values in a [R, V] mask; several times as fast as numpy's `axis=1`."""
    rows, size = mask.shape
    if size % 1024 or not mask.flags.c_contiguous:
        return np.fromiter(map(np.count_nonzero, mask), np.int64, rows)
    # Sum the bytes of 128 words in parallel, as 64-bit integers: none exceeds 128.
    words = torch.from_numpy(mask.view(np.int64)).view(rows, size // 1024, 128).sum(2)
    return words.numpy().view(np.uint8).sum(1, dtype=np.int64)


@contextmanager
def _unbuffered() -> Iterator[None]:
    """Keep numpy from copying rows shorter than its buffer when it compares them with a column."""
    before = np.setbufsize(1024)
    try:
        yield
    finally:
        np.setbufsize(before)


def _sample_bounds(values: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Two values a row, about two standard errors either side of the rank in a sample."""
    size = values.shape[1]
    sample = np.sort(values[:, :: size // SAMPLE], axis=1)
    count = sample.shape[1]
    share = (rank + 0.5) / size
    margin = 2.2 * np.sqrt(count * share * (1.0 - share)) + 1.0
    low = max(int(share * count - margin), 0)
    high = min(int(share * count + margin) + 1, count - 1)
    return sample[:, low].copy(), sample[:, high].copy()


def _rank_among(
    values: np.ndarray, candidates: np.ndarray, bracket: _Bracket
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort the candidates, [R, V] true inside a row's bracket; crowded rows are left undefined."""
    crowded = bracket.crowded()
    candidates[crowded] = False
    held = np.where(crowded, 0, bracket.below_high - bracket.below_low)
    rank = np.where(crowded, 0, bracket.rank - bracket.below_low)
    table = np.full((len(values), max(held.max(), 1)), np.inf, dtype=values.dtype)
    table[np.arange(table.shape[1]) < held[:, None]] = values.ravel()[np.flatnonzero(candidates)]
    table.sort(axis=1)
    value = np.take_along_axis(table, rank[:, None], axis=1)
    below = bracket.below_low + np.count_nonzero(table < value, axis=1)
    return value[:, 0], below, np.count_nonzero(table == value, axis=1)
