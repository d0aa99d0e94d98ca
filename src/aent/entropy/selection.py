"""Where a row's token space ends: compiled kernels that find a rank, or a share of the mass.

A rank is bracketed: values below a pivot are counted, which costs a few per cent of sorting them,
and the next pivot is guessed from the count, until so few candidates are left that each can be
tried. The result is exact whatever the guesses; bad ones end in a bisection over the 2^32 numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aent.entropy.kernels import ONE, ZERO, Floats, kernel, part

FEW = 128
"""Candidates among which a rank is looked up directly."""
GUESSES = 12
"""Pivots guessed from how values lie before the search bisects."""
SKIP = 64
"""Values that are looked at together while candidates are gathered."""

Counts = NDArray[np.int64]

_SIGN_SHIFT, _MAGNITUDE = np.int32(31), np.int32(0x7FFFFFFF)


@part
def _count_below(row: Floats, pivot: np.float32) -> int:
    """Count values below a pivot: in float32, exact up to 2^24, and faster than in integers."""
    count = ZERO
    for column in range(row.shape[0]):
        count += ONE if row[column] < pivot else ZERO
    return int(count)


@part
def _key(value: np.float32) -> np.int32:
    """Integer of a float32 that is ordered as the numbers are; its own inverse on the bits."""
    bits = np.float32(value).view(np.int32)
    return bits ^ ((bits >> _SIGN_SHIFT) & _MAGNITUDE)


@part
def _halfway(low: np.float32, high: np.float32) -> np.float32:
    """Float32 half-way between two others, counted in representable numbers."""
    middle = np.int32((np.int64(_key(low)) + np.int64(_key(high))) >> 1)
    return np.int32(middle ^ ((middle >> _SIGN_SHIFT) & _MAGNITUDE)).view(np.float32)


@part
def _moments(row: Floats) -> tuple[float, float]:
    """Mean and standard deviation, roughly."""
    total, squares = ZERO, ZERO
    for column in range(row.shape[0]):
        value = row[column]
        total += value
        squares += value * value
    mean = total / row.shape[0]
    return mean, np.sqrt(max(squares / row.shape[0] - mean * mean, 0.0))


@part
def _next_pivot(
    pivot: np.float32,
    missing: float,
    pace: float,
    low: np.float32,
    high: np.float32,
    held: int,
) -> np.float32:
    """Guess a value a little beyond a rank, so that a bracket closes around it.

    Until both ends of the bracket are known, by Newton's method with the assumed density; then by
    interpolation between them.

    Args:
        pivot: The last guess.
        missing: Values between the last guess (the bracket's lower end, once both are known) and
            the rank.
        pace: Assumed distance of two neighbouring values.
        low: Lower end of the bracket.
        high: Upper end of the bracket.
        held: Values in the bracket.
    """
    if np.isfinite(low) and np.isfinite(high):
        place = missing
        margin = np.sqrt(held) + 4.0
        place += margin if 2.0 * place < held else -margin
        return np.float32(low + (high - low) * (place / held))
    margin = 0.1 * abs(missing) + 2.0 * np.sqrt(abs(missing)) + 8.0
    return np.float32(pivot + (missing + (margin if missing > 0 else -margin)) * pace)


@part
def _gather(row: Floats, low: np.float32, high: np.float32, candidates: Floats) -> int:
    """Copy the values in [low, high) to the front of `candidates`; returns how many there are.

    Needs room for one more value than there are.
    """
    held, last = 0, candidates.shape[0] - 1
    size = row.shape[0]
    whole = size // SKIP * SKIP
    for start in range(0, whole, SKIP):
        inside = ZERO
        for column in range(SKIP):
            value = row[start + column]
            inside += (ONE if value < high else ZERO) - (ONE if value < low else ZERO)
        if inside > 0:
            for column in range(SKIP):
                value = row[start + column]
                candidates[held] = value
                held = min(held + ((value >= low) & (value < high)), last)
    for column in range(whole, size):
        value = row[column]
        candidates[held] = value
        held = min(held + ((value >= low) & (value < high)), last)
    return held


@part
def _rank_row(
    row: Floats, rank: int, guess: float, pace: float, candidates: Floats
) -> tuple[np.float32, int, int]:
    """Value of a rank of a row, values below it and values tied with it."""
    low, high = np.float32(-np.inf), np.float32(np.inf)
    below_low, below_high = 0, row.shape[0]
    pivot = np.float32(guess)
    guesses = 0
    while below_high - below_low > FEW:
        if guesses == GUESSES or not low < pivot < high:
            pivot = _halfway(low, high)
            if not low < pivot < high:  # neighbours: nothing but `low` lies between them
                return low, below_low, below_high - below_low
        else:
            guesses += 1
        below = _count_below(row, pivot)
        if below <= rank:
            low, below_low = pivot, below
        else:
            high, below_high = pivot, below
        bracketed = np.isfinite(low) and np.isfinite(high)
        missing = rank + 0.5 - (below_low if bracketed else below)
        pivot = _next_pivot(pivot, missing, pace, low, high, below_high - below_low)
    held = _gather(row, low, high, candidates)
    candidates[held:] = np.inf
    for index in range(held):
        value = candidates[index]
        below = below_low + _count_below(candidates, value)
        tied = 0
        for other in range(held):
            tied += candidates[other] == value
        if below <= rank < below + tied:
            return value, below, tied
    return np.float32(np.nan), 0, 1  # a NaN in the row hides ranks


@kernel
def rank_rows(
    scores: Floats,
    rank: int,
    deviations: float,
    spread: float,
    value: Floats,
    above: Counts,
    tied: Counts,
) -> None:
    """Find the value of a rank in each row.

    The first guess takes the row for normally distributed; how far it is off costs time only.

    Args:
        scores: [R, V], V up to 2^24.
        rank: Rank counted from 0, the smallest value, to V - 1.
        deviations: Standard deviations between the mean and that rank in a normal distribution.
        spread: Standard deviations between two neighbouring values there.
        value: [R], written.
        above: [R] int64, written: values that are greater.
        tied: [R] int64, written: values that are equal.
    """
    candidates = np.empty(FEW + 1, np.float32)
    size = scores.shape[1]
    for index in range(scores.shape[0]):
        row = scores[index]
        mean, deviation = _moments(row)
        found, below, equal = _rank_row(
            row, rank, mean + deviations * deviation, spread * deviation, candidates
        )
        value[index] = found
        above[index] = size - below - equal
        tied[index] = equal


@kernel
def mass_rows(
    scores: Floats, totals: Floats, mass: float, value: Floats, places: Counts, tied: Counts
) -> None:
    """Find where the smallest set of likeliest tokens that reaches a mass ends in each row.

    Args:
        scores: [R, V].
        totals: [R], sums of exp2(score).
        mass: Share of the row's probability, below 1.
        value: [R], written: the least likely score of the set.
        places: [R] int64, written: tokens of that score that the set has room for.
        tied: [R] int64, written: tokens of that score.
    """
    size = scores.shape[1]
    candidates = np.empty(size + 1, np.float32)
    for index in range(scores.shape[0]):
        row = scores[index]
        total = float(totals[index])
        # Tokens below an even share of the rest weigh less than the rest together: the set needs
        # none of them. A little less, for rounding.
        light = np.float32(np.log2(total * (1.0 - mass) / size) - 1e-3)
        held = _gather(row, light, np.float32(np.inf), candidates)
        if held == 0:  # a NaN in the row hides its masses
            value[index], places[index], tied[index] = np.float32(np.nan), 1, 1
            continue
        ordered = np.sort(candidates[:held])
        last, reached = held, 0.0
        while last > 0 and reached < mass * total:
            last -= 1
            reached += 2.0 ** float(ordered[last])
        edge = ordered[last]
        first = last
        while first > 0 and ordered[first - 1] == edge:
            first -= 1
        end = last
        while end + 1 < held and ordered[end + 1] == edge:
            end += 1
        value[index] = edge
        places[index] = end - last + 1
        tied[index] = end - first + 1
