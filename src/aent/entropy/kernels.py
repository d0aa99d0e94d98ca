"""Row kernels compiled for the processor: what the statistics do to each logit, in one pass.

A row stays in a core's cache while it is scaled, ranked and summed, and nothing is written in
between, which is what elementwise operations on tensors cannot do. Numba compiles each kernel at
its first call and keeps it on disk. Rows are independent: as many threads as torch may use share
them, and their number changes no bit.

All kernels take float32. A NaN among a row's values makes its sums NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

# Sums may be reordered, so that they are vectorised; NaN and infinity keep their meaning.
_OPTIONS: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "nogil": True}
kernel = njit(cache=True, **_OPTIONS)
# What kernels call becomes a part of them before it is compiled, and stands in the same file. Left
# to the linker it would exist twice, optimised differently, and which copy runs, and with it the
# rounding, would depend on whether the kernel was compiled just now or found on disk. Nor would
# numba see that another file has changed.
part = njit(inline="always", **_OPTIONS)

FLOOR = np.float32(-100.0)
"""Smallest score: no probability is denormal or 0, so that 0 * inf cannot occur."""
BLOCK = 2048
"""Terms that are summed in float32 before they are added up in float64."""
LANES = 64
"""Independent maxima of a row: as many as fill a processor's vector registers."""

Floats = NDArray[np.float32]

ZERO, ONE = np.float32(0.0), np.float32(1.0)
_HALF = np.float32(0.5)
_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)
# 2^r for |r| <= 1/2, fitted at Chebyshev's points: off by 2e-9 at most, before rounding.
_C1, _C2, _C3, _C4, _C5, _C6 = (
    np.float32(value)
    for value in (
        0.6931472067,
        0.2402265121,
        0.05550327214,
        0.009618025603,
        0.001340043217,
        0.0001546973197,
    )
)


def over_rows(kernel: Callable[..., None], *arguments: Any) -> None:
    """Call a kernel on all rows, shared among torch's threads.

    Args:
        kernel: Takes the arguments; writes its results into some of them.
        arguments: Tensors on a CPU, whose first dimension is the row, and numbers.
    """
    arrays = [a.detach().numpy() if isinstance(a, torch.Tensor) else a for a in arguments]
    rows = next(len(a) for a in arrays if isinstance(a, np.ndarray))
    threads = min(torch.get_num_threads(), rows)
    if threads <= 1:
        kernel(*arrays)
        return
    bounds = [part * rows // threads for part in range(threads + 1)]
    calls = [
        _pool(threads).submit(
            kernel, *(a[start:stop] if isinstance(a, np.ndarray) else a for a in arrays)
        )
        for start, stop in pairwise(bounds)
    ]
    for call in calls:
        call.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="rows")


@part
def exp2(x: np.float32) -> np.float32:
    """2^x of a float32 from -126 to 127, to a unit in the last place."""
    whole = np.floor(x + _HALF)
    r = x - whole
    power = _C6
    power = power * r + _C5
    power = power * r + _C4
    power = power * r + _C3
    power = power * r + _C2
    power = power * r + _C1
    power = power * r + ONE
    exponent = (np.int32(whole) + _BIAS) << _MANTISSA_BITS
    return power * np.int32(exponent).view(np.float32)


@part
def _score(logit: np.float32, scale: np.float32, shift: np.float32) -> np.float32:
    """Score of a logit; written so that NaN passes the floor."""
    score = logit * scale + shift
    return FLOOR if score < FLOOR else score


@part
def _largest(row: Floats) -> np.float32:
    """Largest value, NaN left out."""
    size = row.shape[0]
    lanes = np.full(LANES, row[0], np.float32)
    whole = size // LANES * LANES
    for start in range(0, whole, LANES):
        part = row[start : start + LANES]
        for lane in range(LANES):
            value = part[lane]
            lanes[lane] = value if value > lanes[lane] else lanes[lane]
    largest = lanes[0]
    for value in lanes:
        largest = value if value > largest else largest
    for value in row[whole:]:
        largest = value if value > largest else largest
    return largest


@kernel
def score_rows(logits: Floats, scale: np.float32, shift: Floats) -> None:
    """Turn logits into scores in place.

    Args:
        logits: [R, V].
        scale: What a logit is multiplied by.
        shift: [R], written: what is then added, minus the row's largest scaled logit.
    """
    for index in range(logits.shape[0]):
        row = logits[index]
        added = -_largest(row) * scale
        shift[index] = added
        for column in range(row.shape[0]):
            row[column] = _score(row[column], scale, added)


@part
def _sum_block(row: Floats, threshold: np.float32) -> tuple[np.float32, ...]:
    """Mass, mass times score, and both above the threshold, of a short row."""
    mass, weighted, above, weighted_above = ZERO, ZERO, ZERO, ZERO
    for column in range(row.shape[0]):
        score = row[column]
        term = exp2(score)
        product = term * score
        kept = ONE if score > threshold else ZERO
        mass += term
        weighted += product
        above += term * kept
        weighted_above += product * kept
    return mass, weighted, above, weighted_above


@kernel
def sum_rows(scores: Floats, threshold: Floats, sums: Floats) -> None:
    """Sum masses and masses times scores, over all tokens and over those above a threshold.

    Args:
        scores: [R, V].
        threshold: [R].
        sums: [R, 4], written: mass, mass times score, and both above the threshold.
    """
    size = scores.shape[1]
    for index in range(scores.shape[0]):
        row = scores[index]
        mass, weighted, above, weighted_above = 0.0, 0.0, 0.0, 0.0
        for start in range(0, size, BLOCK):
            a, b, c, d = _sum_block(row[start : start + BLOCK], threshold[index])
            mass += float(a)
            weighted += float(b)
            above += float(c)
            weighted_above += float(d)
        sums[index, 0] = mass
        sums[index, 1] = weighted
        sums[index, 2] = above
        sums[index, 3] = weighted_above


@kernel
def gradient_rows(
    logits: Floats,
    scale: np.float32,
    shift: Floats,
    constant: Floats,
    linear: Floats,
    kept_constant: Floats,
    kept_linear: Floats,
    threshold: Floats,
    share: Floats,
) -> None:
    """Replace logits by their gradients, targets aside.

    Args:
        logits: [R, V].
        scale: What a logit is multiplied by.
        shift: [R, 1] what is then added.
        constant: [R, 1]; so are all that follow.
        linear: See `gradients.LogitGradient`.
        kept_constant: The same.
        kept_linear: The same.
        threshold: Score on which the token space ends.
        share: Weight of a token on the threshold.
    """
    for index in range(logits.shape[0]):
        row = logits[index]
        added, edge, divided = shift[index, 0], threshold[index, 0], share[index, 0]
        a, b = constant[index, 0], linear[index, 0]
        c, d = kept_constant[index, 0], kept_linear[index, 0]
        for column in range(row.shape[0]):
            score = _score(row[column], scale, added)
            kept = ONE if score > edge else (divided if score == edge else ZERO)
            row[column] = exp2(score) * (a + b * score + kept * (c + d * score))
