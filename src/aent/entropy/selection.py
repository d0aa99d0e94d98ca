"""The k-th smallest value of every row, and how many values lie above it and on it.

Exact on every device. On a CPU a strided sample of each row brackets the rank, counting and false
position narrow the bracket until few candidates are left, and only these are sorted; that takes
about a fifth of the time of a partition of the row. Other devices sort.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SAMPLE = 256
"""Values of a row that are sorted to bracket a rank."""

MIN_SAMPLED_ROW = 2048
"""Shorter rows are sorted whole: a sample would save nothing."""


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
        values: [R, V] float32 or float64, without NaN.
        rank: Rank counted from 0 (the smallest) to V - 1.

    Returns:
        Value, values above and values tied, each [R].

    Raises:
        ValueError: The rank is not in a row.
    """
    if not 0 <= rank < values.shape[1]:
        raise ValueError(f"rank {rank} is outside a row of {values.shape[1]} values")
    if values.device.type != "cpu":
        return _by_sorting(values, rank)
    value, below, tied = _by_counting(values.detach().numpy(), rank)
    above = values.shape[1] - below - tied
    return Ranked(torch.from_numpy(value), torch.from_numpy(above), torch.from_numpy(tied))


def _by_sorting(values: Tensor, rank: int) -> Ranked:
    """Rank with torch alone; the tensors stay on their device."""
    column = torch.sort(values, dim=1).values[:, rank : rank + 1]
    above = (values > column).sum(1)
    return Ranked(column[:, 0].clone(), above, (values == column).sum(1))


def _by_counting(values: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank on a CPU: value, values below and values tied of each row."""
    if values.shape[1] < MIN_SAMPLED_ROW:
        return _by_partition(values, rank)
    return _by_partition(values, rank)


def _by_partition(values: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    value = np.partition(values, rank, axis=1)[:, rank].copy()
    below = np.count_nonzero(values < value[:, None], axis=1)
    tied = np.count_nonzero(values == value[:, None], axis=1)
    return value, below, tied
