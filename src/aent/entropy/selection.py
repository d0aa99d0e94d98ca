"""The k-th smallest value of every row, and how many values lie above it and on it.

Exact on every device. On a CPU all rows of a chunk are narrowed together: a sorted strided sample
gives a first guess of the value and how densely values lie there, two Newton steps bracket the
rank within a few per cent of the row, and only the candidates inside are sorted. Counting a row
three times costs about a tenth of partitioning it. Other devices sort with torch, without a copy
to the host.
"""

from __future__ import annotations

import importlib
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


_FEATURES = importlib.import_module("numpy._core._multiarray_umath").__cpu_features__
PARTITIONS_FAST: bool = _FEATURES.get("AVX512_SPR", False)
"""Whether numpy partitions in about 1 ns a value: Intel's AVX-512. Elsewhere, also on other
processors that have AVX-512, it takes up to 7 ns, and narrowing a rank takes 2. The features are
those that `np.show_runtime()` prints."""


class Ranked(NamedTuple):
    """Where a rank falls in each row; all of shape [R]."""

    value: Tensor
    """The value of that rank."""
    above: Tensor
    """Values of the row that are greater (int64)."""
    tied: Tensor
    """Values of the row that are equal, the ranked one among them (int64)."""


class Cut(NamedTuple):
    """A token space of each row; all of shape [R], in the scores' dtype."""

    threshold: Tensor
    """Tokens with a greater score are in the space, with a smaller one outside."""
    share: Tensor
    """Weight in (0, 1] of each token whose score equals the threshold."""
    places: Tensor
    """Places that the tokens on the threshold share: `share` times their number."""


def partitioned_cut(scores: Tensor, rank: int, workspace: Tensor) -> Cut:
    """Tell where rows that numpy has partitioned were cut.

    Args:
        scores: [R, V] on a CPU, the `rank` smallest scores of each row in front.
        rank: From 1 to V - 1.
        workspace: [1, at least R * V] bool, overwritten.

    Returns:
        The space of the scores from the rank on.
    """
    rows = scores.detach().numpy()
    equal = workspace[0, : rows.size].numpy().reshape(rows.shape)
    threshold = rows[:, rank].copy()
    with _unbuffered():
        np.equal(rows, threshold[:, None], out=equal)
    tied = count_true(equal)
    places = np.ones_like(tied)
    for row in np.flatnonzero(tied > 1):
        places[row] = np.count_nonzero(equal[row, rank:])
    parts = (threshold, places / tied, places)
    return Cut(*(torch.from_numpy(part).to(scores.dtype) for part in parts))


def kth_smallest(values: Tensor, rank: int, workspace: Tensor | None = None) -> Ranked:
    """Return the value of a rank in each row.

    Args:
        values: [R, V] float32 or float64, finite.
        rank: Rank counted from 0 (the smallest) to V - 1.
        workspace: [2, at least R * V] bool that may be overwritten: fresh memory a call would
            cost as much as the counting.

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
    if workspace is None:
        workspace = torch.empty((2, values.numel()), dtype=torch.bool)
    with _unbuffered():
        if size < MIN_SAMPLED_ROW:
            value, below, tied = partitioned_rank(values.detach().numpy(), rank)
        else:
            value, below, tied = narrowed_rank(values.detach().numpy(), rank, workspace.numpy())
    return Ranked(
        torch.from_numpy(value), torch.from_numpy(size - below - tied), torch.from_numpy(tied)
    )


def descending(values: Tensor, least: Tensor) -> Tensor:
    """Sort the values of each row that are not below a least one, the largest first.

    Args:
        values: [R, V], finite.
        least: [R].

    Returns:
        [R, W], rows that hold fewer than W values filled with -inf. On a CPU, W is the largest
        number of values in a row, which is few where a policy is peaked; on other devices, V.
    """
    if values.device.type != "cpu":
        return torch.sort(values, dim=1, descending=True).values
    rows = values.detach().numpy()
    with _unbuffered():
        candidates = rows >= least.numpy()[:, None]
    table = _table(rows, candidates, count_true(candidates), sign=-1)
    table.sort(axis=1)
    return torch.from_numpy(-table)


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


def narrowed_rank(
    values: np.ndarray, rank: int, workspace: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Narrow a bracket of the rank in all rows at once.

    Args:
        values: [R, V], rows of at least `MIN_SAMPLED_ROW`.
        rank: Rank counted from 0.
        workspace: [2, at least R * V] bool, overwritten.

    Returns:
        Value, values below and values tied of each row, each [R].
    """
    below_first, candidates = (part[: values.size].reshape(values.shape) for part in workspace)
    bracket = _Bracket(values, rank)
    guess, pace = _sample_quantile(values, rank)
    missing = bracket.probe(guess, candidates)
    first = (guess + missing * pace).astype(values.dtype)
    missing = bracket.probe(first, below_first)
    margin = 0.3 * np.abs(missing) + 2.0 * np.sqrt(np.abs(missing)) + 8.0
    second = (first + (missing + np.copysign(margin, missing)) * pace).astype(values.dtype)
    bracket.probe(second, candidates)
    np.bitwise_xor(below_first, candidates, out=candidates)
    low, high = np.minimum(first, second), np.maximum(first, second)
    between = (low == bracket.low) & (high == bracket.high)
    for row in np.flatnonzero(~between | bracket.crowded()):
        bracket.finish(int(row), float(pace[row]))
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

    def probe(self, pivot: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Tighten the bracket by a pivot a row.

        Args:
            pivot: [R] values.
            mask: [R, V] bool, set where a value lies below its row's pivot.

        Returns:
            [R], how many values the rank lies above the pivot (negative: below it).
        """
        np.less(self.values, pivot[:, None], out=mask)
        below = count_true(mask)
        raises = (below <= self.rank) & (pivot > self.low)
        lowers = (below > self.rank) & (pivot < self.high)
        np.copyto(self.low, pivot, where=raises)
        np.copyto(self.below_low, below, where=raises)
        np.copyto(self.high, pivot, where=lowers)
        np.copyto(self.below_high, below, where=lowers)
        return self.rank + 0.5 - below

    def finish(self, row: int, pace: float) -> None:
        """Narrow one row until its candidates are few, or its values too close to separate."""
        values = self.values[row]
        reach = 16.0
        while self.below_high[row] - self.below_low[row] > self.few:
            low, high = self.low[row], self.high[row]
            if np.isfinite(low) and np.isfinite(high):
                pivot = values.dtype.type(low + (high - low) / 2)
            elif np.isfinite(low):
                pivot = values.dtype.type(low + pace * (self.rank - self.below_low[row] + reach))
            else:
                pivot = values.dtype.type(high - pace * (self.below_high[row] - self.rank + reach))
            reach *= 4.0
            if not low < pivot < high:
                return
            below = np.count_nonzero(values < pivot)
            if below <= self.rank:
                self.low[row], self.below_low[row] = pivot, below
            else:
                self.high[row], self.below_high[row] = pivot, below

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


def _sample_quantile(values: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Guess the rank's value in each row from a sample, and the mean gap of two values there."""
    size = values.shape[1]
    sample = np.sort(values[:, :: size // SAMPLE], axis=1)
    count = sample.shape[1]
    share = (rank + 0.5) / size
    at = int(share * count)
    reach = int(3.0 * np.sqrt(count * share * (1.0 - share))) + 2
    low, high = max(at - reach, 0), min(at + reach, count - 1)
    gap = (sample[:, high] - sample[:, low]) / ((high - low) * size / count)
    return sample[:, at].copy(), gap


def _rank_among(
    values: np.ndarray, candidates: np.ndarray, bracket: _Bracket
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort the candidates, [R, V] true inside a row's bracket; crowded rows are left undefined."""
    crowded = bracket.crowded()
    candidates[crowded] = False
    held = np.where(crowded, 0, bracket.below_high - bracket.below_low)
    rank = np.where(crowded, 0, bracket.rank - bracket.below_low)
    table = _table(values, candidates, held)
    table.sort(axis=1)
    value = np.take_along_axis(table, rank[:, None], axis=1)
    below = bracket.below_low + np.count_nonzero(table < value, axis=1)
    return value[:, 0], below, np.count_nonzero(table == value, axis=1)


def _table(
    values: np.ndarray, candidates: np.ndarray, held: np.ndarray, *, sign: int = 1
) -> np.ndarray:
    """Gather each row's candidates, `held` of them, times the sign: [R, W], filled with inf."""
    table = np.full((len(values), max(held.max(), 1)), np.inf, dtype=values.dtype)
    chosen = values.ravel()[np.flatnonzero(candidates)]
    table[np.arange(table.shape[1]) < held[:, None]] = chosen if sign == 1 else -chosen
    return table
