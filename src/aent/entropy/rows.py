"""What is done to rows of logits: in torch on any device, in compiled kernels on a CPU.

Both classes have the same methods. `TorchRows` passes over its rows once for every operation,
which suits a device whose memory keeps up with it, and leaves every tensor there. `CompiledRows`
does all of a method's work on a row while it is in a core's cache.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from aent.entropy import kernels, selection

if TYPE_CHECKING:
    from aent.entropy.gradients import LogitGradient

FLOOR = {torch.float32: float(kernels.FLOOR), torch.float64: -900.0}
"""Smallest score: no probability is denormal or 0, so that 0 * inf cannot occur."""

LN2 = math.log(2.0)

LONGEST_COMPILED = 1 << 24
"""The kernels count in float32, which is exact up to here."""

STEEP = 1e30
"""Turns the smallest difference of two scores into more than 1."""


class Cut(NamedTuple):
    """A token space of each row; all of shape [R], in the scores' dtype."""

    threshold: Tensor
    """Tokens with a greater score are in the space, with a smaller one outside."""
    share: Tensor
    """Weight in (0, 1] of each token whose score equals the threshold."""
    places: Tensor
    """Places that the tokens on the threshold share: `share` times their number."""

    @classmethod
    def shared(cls, threshold: Tensor, places: Tensor, tied: Tensor) -> Cut:
        """Give tokens on the threshold equal shares of its places."""
        places = places.to(threshold.dtype)
        return cls(threshold, places / tied, places)


class Rows(Protocol):
    """Work on rows of logits, [R, V], in the dtype of the sums."""

    scale: float
    """What a logit is multiplied by to be a score, up to its row's shift."""

    def to_scores(self, logits: Tensor) -> Tensor:
        """Turn logits into scores in place; returns their shift, [R, 1].

        The largest score is 0 but for the rounding of the shift, which is the same for the whole
        row and in every pass, and cancels.
        """
        ...

    def drop(self, scores: Tensor, count: int) -> Cut:
        """The space that drops the `count` least likely tokens, from 1 to V - 1."""
        ...

    def keep(self, scores: Tensor, mass: float) -> Cut:
        """The smallest set of most likely tokens that reaches a share of the mass, below 1."""
        ...

    def sums(self, scores: Tensor, threshold: Tensor | None) -> Tensor:
        """Mass, mass times score, and both above the threshold, [R]: [R, 4].

        Without a threshold the last two are undefined.
        """
        ...

    def to_gradients(self, logits: Tensor, shift: Tensor, gradient: LogitGradient) -> None:
        """Replace logits in place by their gradients, those of targets aside; shift is [R, 1]."""
        ...


def rows_for(device: torch.device, dtype: torch.dtype, scale: float) -> Rows:
    """Choose how rows are worked on.

    Args:
        device: Where they are.
        dtype: Their dtype, float32 or float64.
        scale: What logits are multiplied by.
    """
    if device.type == "cpu" and dtype == torch.float32:
        return CompiledRows(scale)
    return TorchRows(scale)


class CompiledRows:
    """Rows of float32 on a CPU."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def to_scores(self, logits: Tensor) -> Tensor:
        """See `Rows`."""
        shift = logits.new_empty(len(logits))
        kernels.over_rows(kernels.score_rows, logits, np.float32(self.scale), shift)
        return shift[:, None]

    def drop(self, scores: Tensor, count: int) -> Cut:
        """See `Rows`."""
        size = scores.shape[1]
        if size > LONGEST_COMPILED:
            return sorted_drop(scores, count)
        threshold = scores.new_empty(len(scores))
        above, tied = (torch.empty(len(scores), dtype=torch.int64) for _ in range(2))
        deviations = NormalDist().inv_cdf((count + 0.5) / size)
        spread = 1.0 / (NormalDist().pdf(deviations) * size)
        kernels.over_rows(
            selection.rank_rows, scores, count, deviations, spread, threshold, above, tied
        )
        return Cut.shared(threshold, size - count - above, tied)

    def keep(self, scores: Tensor, mass: float) -> Cut:
        """See `Rows`."""
        threshold = scores.new_empty(len(scores))
        places, tied = (torch.empty(len(scores), dtype=torch.int64) for _ in range(2))
        totals = self.sums(scores, None)[:, 0].contiguous()
        kernels.over_rows(selection.mass_rows, scores, totals, mass, threshold, places, tied)
        return Cut.shared(threshold, places, tied)

    def sums(self, scores: Tensor, threshold: Tensor | None) -> Tensor:
        """See `Rows`."""
        sums = scores.new_empty((len(scores), 4))
        if threshold is None:
            threshold = scores.new_zeros(len(scores))
        kernels.over_rows(kernels.sum_rows, scores, threshold, sums)
        return sums

    def to_gradients(self, logits: Tensor, shift: Tensor, gradient: LogitGradient) -> None:
        """See `Rows`."""
        nothing = torch.zeros_like(shift)
        terms = (gradient.linear, gradient.kept_constant, gradient.kept_linear)
        kernels.over_rows(
            kernels.gradient_rows,
            logits,
            np.float32(self.scale),
            shift,
            gradient.constant,
            *(nothing if term is None else term for term in terms),
            gradient.threshold,
            gradient.share,
        )


class TorchRows:
    """Rows on any device, in float32 or float64."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.scratch: Tensor | None = None

    def _room(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Room for two matrices like a given one, kept from call to call."""
        if self.scratch is None or self.scratch.shape[1] < like.numel():
            self.scratch = like.new_empty((2, like.numel()))
        first, second = (row[: like.numel()].view_as(like) for row in self.scratch)
        return first, second

    def to_scores(self, logits: Tensor) -> Tensor:
        """See `Rows`."""
        shift = logits.amax(1, keepdim=True) * -self.scale
        self._score(logits, shift)
        return shift

    def _score(self, logits: Tensor, shift: Tensor) -> None:
        torch.add(shift, logits, alpha=self.scale, out=logits)
        logits.clamp_(min=FLOOR[logits.dtype])

    def drop(self, scores: Tensor, count: int) -> Cut:
        """See `Rows`."""
        return sorted_drop(scores, count)

    def keep(self, scores: Tensor, mass: float) -> Cut:
        """See `Rows`."""
        ordered = torch.sort(scores, dim=1, descending=True).values
        reached = torch.exp2(ordered).cumsum(1, dtype=torch.float64)
        kept = (reached < mass * reached[:, -1:]).sum(1, keepdim=True) + 1
        threshold = torch.gather(ordered, 1, kept - 1)
        places = (kept - (ordered > threshold).sum(1, keepdim=True))[:, 0]
        return Cut.shared(threshold[:, 0], places, (ordered == threshold).sum(1))

    def sums(self, scores: Tensor, threshold: Tensor | None) -> Tensor:
        """See `Rows`."""
        sums = scores.new_empty((len(scores), 4))
        masses, second = self._room(scores)
        torch.exp2(scores, out=masses)
        sums[:, 0] = masses.sum(1)
        sums[:, 1] = torch.mul(masses, scores, out=second).sum(1)
        if threshold is not None:
            masses.mul_(torch.gt(scores, threshold[:, None], out=second))
            sums[:, 2] = masses.sum(1)
            sums[:, 3] = masses.mul_(scores).sum(1)
        return sums

    def to_gradients(self, logits: Tensor, shift: Tensor, gradient: LogitGradient) -> None:
        """See `Rows`."""
        self._score(logits, shift)
        scores = logits
        first, second = self._room(scores)
        factor = gradient.constant
        if gradient.kept_constant is not None:
            # 1 above the threshold, the share on it, 0 below.
            torch.sub(scores, gradient.threshold, out=second)
            torch.add(gradient.share, second, alpha=STEEP, out=second).clamp_(0.0, 1.0)
            if gradient.kept_linear is not None:
                torch.mul(scores, gradient.kept_linear, out=first)
                factor = first.add_(gradient.kept_constant).mul_(second).add_(factor)
            else:
                factor = torch.mul(second, gradient.kept_constant, out=first).add_(factor)
        if gradient.linear is not None:
            factor = torch.mul(scores, gradient.linear, out=second).add_(factor)
        scores.exp2_().mul_(factor)


def sorted_drop(scores: Tensor, count: int) -> Cut:
    """`Rows.drop` by sorting."""
    size = scores.shape[1]
    threshold = torch.sort(scores, dim=1).values[:, count : count + 1].clone()
    above, tied = (scores > threshold).sum(1), (scores == threshold).sum(1)
    return Cut.shared(threshold[:, 0], size - count - above, tied)
