"""The forward pass of the statistics: whole rows of scores, reduced to a few numbers a token.

A space that ends at a rank is cut in one of two ways, whichever suits the processor. Where numpy
partitions rows fast, the scores are partitioned in place: the space is then a slice, and its sums
need no mask. Elsewhere the threshold is found first (`selection`), and a mask tells the space.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from aent.config.method import Space
from aent.entropy.selection import PARTITIONS_FAST, partitioned_cut
from aent.entropy.spaces import Cut, cut, rank_of
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
        on_cpu = head.hidden.device.type == "cpu"
        self.rank = rank_of(space, size) if on_cpu and PARTITIONS_FAST else None
        wide = 0 if head.wide else self.part_rows * size
        self.widened = head.hidden.new_empty(wide, dtype=head.dtype)
        self.scratch = head.hidden.new_empty((2, self.block_rows * size), dtype=head.dtype)
        masks = 1 if self.rank is not None else 2
        self.workspace = head.hidden.new_empty((masks, self.part_rows * size), dtype=torch.bool)

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
        sums = scores.new_empty((4, len(scores)))
        blocks = list(spans(len(scores), self.block_rows))
        for block in blocks:
            shift[block] = head.shift(scores[block].amax(1, keepdim=True))
            head.floored(head.relative(scores[block], shift[block]))
            if self.rank is not None:
                scores[block].numpy().partition(self.rank, axis=1)
                self._sum_from(scores[block], self.rank, sums[:, block])
        chosen = head.relative(chosen, shift)
        found: Cut | None
        if self.rank is not None:
            found = partitioned_cut(scores, self.rank, self.workspace)
        elif (found := cut(self.space, scores, self.workspace)) is not None:
            for block in blocks:
                self._sum_above(scores[block], found.threshold[block], sums[:, block])
            # Added as one term: taking a share of many ties away again from a sum that holds them
            # all would cancel.
            tied = found.places * torch.exp2(found.threshold)
            sums[2] += tied
            sums[3] += tied * found.threshold
        else:
            for block in blocks:
                self._sum(scores[block], sums[:2, block])
        return chosen[:, 0], _finish(shift[:, 0], sums, found)

    def _sum(self, scores: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Sum masses and masses times scores over all tokens.

        Args:
            scores: [R, V].
            sums: [2, R], written.

        Returns:
            The masses and room for another such matrix, [R, V] each.
        """
        masses, second = (row[: scores.numel()].view(scores.shape) for row in self.scratch)
        torch.exp2(scores, out=masses)
        torch.sum(masses, 1, out=sums[0])
        sums[1] = _row_dot(masses, scores, second)
        return masses, second

    def _sum_above(self, scores: Tensor, threshold: Tensor, sums: Tensor) -> None:
        """`_sum` into sums[:2], and the same over tokens above a threshold, [R], into sums[2:]."""
        masses, second = self._sum(scores, sums[:2])
        masses.mul_(torch.gt(scores, threshold[:, None], out=second))
        torch.sum(masses, 1, out=sums[2])
        sums[3] = _row_dot(masses, scores, second)

    def _sum_from(self, scores: Tensor, rank: int, sums: Tensor) -> None:
        """`_sum` into sums[:2], and the same over the columns from a rank on into sums[2:]."""
        masses, second = (matrix[:, rank:] for matrix in self._sum(scores, sums[:2]))
        torch.sum(masses, 1, out=sums[2])
        sums[3] = _row_dot(masses, scores[:, rank:], second)


def _finish(shift: Tensor, sums: Tensor, found: Cut | None) -> Saved:
    """Turn the sums of rows into entropies and kept mass."""
    total, weighted, kept, weighted_kept = sums
    log_total = total.log()
    entropy = log_total - LN2 * weighted / total
    if found is None:
        one = torch.ones_like(total)
        return Saved(shift, log_total, entropy, entropy, one, one * -math.inf, one)
    clamped = kept.log() - LN2 * weighted_kept / kept
    mass = (kept / total).clamp_(max=1.0)  # the two sums are rounded apart
    return Saved(shift, log_total, entropy, clamped, mass, found.threshold, found.share)


def _row_dot(left: Tensor, right: Tensor, scratch: Tensor) -> Tensor:
    """Return the inner product of each pair of rows, [R] of [R, V]; may overwrite the scratch."""
    if left.device.type == "cpu" and left.shape[1] <= SINGLE_THREADED_DOT:
        # One pass instead of two; BLAS adds up in double precision.
        return torch.from_numpy(np.vecdot(left.numpy(), right.numpy()))
    return torch.mul(left, right, out=scratch).sum(1)
