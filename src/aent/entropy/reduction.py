"""The forward pass of the statistics: whole rows of scores, reduced to a few numbers a token."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from aent.config.method import Space
from aent.entropy.spaces import Cut, cut
from aent.entropy.tiles import LN2, Scores, Tiles, spans

SINGLE_THREADED_DOT = 8192
"""Longer inner products use threads of the BLAS's own, which torch does not govern."""


class Saved(NamedTuple):
    """What the forward pass keeps of each token; each [N], in the dtype of the sums."""

    shift: Tensor
    """Added to a scaled logit to give its score."""
    log_total: Tensor
    """Logarithm of the sum of exp2(score)."""
    entropy: Tensor
    clamped: Tensor
    kept: Tensor
    threshold: Tensor
    """Score on which the token space ends."""
    share: Tensor
    """Weight of a token on the threshold."""


class Reduction:
    """Reduces whole rows; owns the scratch memory that this takes.

    Rows are first shifted and cut, then summed a few at a time, so that the two or three matrices
    of an elementwise pass stay in a core's cache.
    """

    def __init__(self, head: Scores, space: Space, tiles: Tiles) -> None:
        size = len(head.weight)
        rows = min(tiles.rows, len(head.hidden))
        self.head, self.space = head, space
        self.part_rows = min(max(1, tiles.selected // size), rows)
        self.block_rows = min(max(1, tiles.cached // size), rows)
        wide = 0 if head.wide else self.part_rows * size
        self.widened = head.hidden.new_empty(wide, dtype=head.dtype)
        self.scratch = head.hidden.new_empty((2, self.block_rows * size), dtype=head.dtype)
        self.workspace = head.hidden.new_empty((2, self.part_rows * size), dtype=torch.bool)

    def reduce(self, tile: Tensor, targets: Tensor) -> tuple[Tensor, Saved]:
        """Reduce rows of a tile; overwrites it.

        Args:
            tile: [R, V] logits, R at most `part_rows`.
            targets: [R] tokens.

        Returns:
            Scores of the targets (without a floor) and the saved numbers, each [R].
        """
        head = self.head
        scores = head.widen(tile, self.widened)
        chosen = scores.gather(1, targets[:, None])
        shift = scores.new_empty((len(scores), 1))
        blocks = list(spans(len(scores), self.block_rows))
        for block in blocks:
            shift[block] = head.shift(scores[block].amax(1, keepdim=True))
            head.floored(head.relative(scores[block], shift[block]))
        chosen = head.relative(chosen, shift)
        found = cut(self.space, scores, self.workspace)
        sums = scores.new_empty((4, len(scores)))
        for block in blocks:
            self._sum(
                scores[block], None if found is None else found.threshold[block], sums[:, block]
            )
        return chosen[:, 0], _finish(shift[:, 0], sums, found)

    def _sum(self, scores: Tensor, threshold: Tensor | None, sums: Tensor) -> None:
        """Sum masses and masses times scores over all tokens and over those above the threshold.

        Args:
            scores: [R, V].
            threshold: [R], or None where there is no cut.
            sums: [4, R], written: both sums over all tokens, both over those above.
        """
        masses, second = (row[: scores.numel()].view(scores.shape) for row in self.scratch)
        torch.exp2(scores, out=masses)
        torch.sum(masses, 1, out=sums[0])
        sums[1] = _row_dot(masses, scores, second)
        if threshold is not None:
            masses.mul_(torch.gt(scores, threshold[:, None], out=second))
            torch.sum(masses, 1, out=sums[2])
            sums[3] = _row_dot(masses, scores, second)


def _finish(shift: Tensor, sums: Tensor, found: Cut | None) -> Saved:
    """Turn the sums of rows into entropies and kept mass."""
    total, weighted, above, weighted_above = sums
    log_total = total.log()
    entropy = log_total - LN2 * weighted / total
    if found is None:
        one = torch.ones_like(total)
        return Saved(shift, log_total, entropy, entropy, one, one * -math.inf, one)
    # Tokens on the threshold are added as one term: taking a share of many away again from a sum
    # that holds them all would cancel.
    tied = found.places * torch.exp2(found.threshold)
    kept = above + tied
    clamped = kept.log() - LN2 * (weighted_above + tied * found.threshold) / kept
    return Saved(shift, log_total, entropy, clamped, kept / total, found.threshold, found.share)


def _row_dot(left: Tensor, right: Tensor, scratch: Tensor) -> Tensor:
    """Return the inner product of each pair of rows, [R] of [R, V]; may overwrite the scratch."""
    if left.device.type == "cpu" and left.shape[1] <= SINGLE_THREADED_DOT:
        # One pass instead of two; BLAS adds up in double precision.
        return torch.from_numpy(np.vecdot(left.numpy(), right.numpy()))
    return torch.mul(left, right, out=scratch).sum(1)
