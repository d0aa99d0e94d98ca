"""Confidence intervals over seeds, and what may be concluded from one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

LEVEL = 0.95
REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
INCONCLUSIVE = "inconclusive"


class Interval(NamedTuple):
    """A mean with its confidence interval.

    Attributes:
        mean: of the values; NaN where there are none.
        low: lower end; NaN for fewer than two values, which say nothing about their spread.
        high: upper end; NaN likewise.
        number: how many values there are.
    """

    mean: float
    low: float
    high: float
    number: int

    @property
    def half(self) -> float:
        """Half the width: what follows the sign in `mean ± half`."""
        return (self.high - self.low) / 2

    def show(self, digits: int = 3) -> str:
        """`0.534 ± 0.021`; without a spread, the mean alone; `n/a` without values."""
        if math.isnan(self.mean):
            return "n/a"
        if math.isnan(self.low):
            return _decimal(self.mean, digits)
        return f"{_decimal(self.mean, digits)} ± {_decimal(self.half, digits)}"

    def range(self, digits: int = 3) -> str:
        """`0.534 [0.513, 0.555]`; `[n/a]` where the spread is unknown."""
        if math.isnan(self.mean):
            return "n/a"
        if math.isnan(self.low):
            return f"{_decimal(self.mean, digits)} [n/a]"
        mean, low, high = (_decimal(end, digits) for end in self[:3])
        return f"{mean} [{low}, {high}]"


def student(values: Iterable[float], level: float = LEVEL) -> Interval:
    """Mean and Student t interval: mean ± t * SD / sqrt(n), SD with n - 1.

    Args:
        values: one number a seed; none may be NaN.
        level: confidence level.

    Raises:
        ValueError: a value is not finite.
    """
    array = np.asarray(list(values), dtype=float)
    if not np.isfinite(array).all():
        raise ValueError(f"an interval needs finite values, found {array.tolist()}")
    count = array.size
    if count == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(array.mean())
    if count == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stats.t.ppf((1 + level) / 2, count - 1) * array.std(ddof=1) / math.sqrt(count))
    return Interval(mean, mean - half, mean + half, count)


def above(interval: Interval, bound: float) -> str:
    """Verdict on `more than bound`: the interval must lie wholly on one side of it."""
    if interval.low > bound:
        return REPRODUCED
    return NOT_REPRODUCED if interval.high < bound else INCONCLUSIVE


def below(interval: Interval, bound: float) -> str:
    """Verdict on `less than bound`: the interval must lie wholly on one side of it."""
    if interval.high < bound:
        return REPRODUCED
    return NOT_REPRODUCED if interval.low > bound else INCONCLUSIVE


def within(interval: Interval, margin: float) -> str:
    """Verdict on `no more than margin away from 0`: wholly inside, wholly outside, or neither."""
    if -margin <= interval.low and interval.high <= margin:
        return REPRODUCED
    outside = interval.low > margin or interval.high < -margin
    return NOT_REPRODUCED if outside else INCONCLUSIVE


def every(verdicts: Iterable[str]) -> str:
    """Verdict on a claim with several parts: all must hold, and one that fails refutes it."""
    found = set(verdicts)
    if NOT_REPRODUCED in found:
        return NOT_REPRODUCED
    return REPRODUCED if found == {REPRODUCED} else INCONCLUSIVE


def _decimal(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # adding 0.0 turns -0.0 into 0.0
