"""The forward pass of the statistics: whole rows of logits, reduced to a few numbers a token."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from aent.entropy.rows import LN2, Cut, Rows
from aent.entropy.spaces import Cutter


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


def reduce_rows(
    rows: Rows, logits: Tensor, targets: Tensor, cut: Cutter | None
) -> tuple[Tensor, Saved]:
    """Reduce whole rows of logits; overwrites them.

    Args:
        rows: How rows are worked on.
        logits: [R, V] in the dtype of the sums.
        targets: [R] tokens.
        cut: Finds the token space of the clamped entropy; None for the whole vocabulary.

    Returns:
        Log-probabilities of the targets and what is saved of each row, each [R].
    """
    chosen = logits.gather(1, targets[:, None])
    shift = rows.to_scores(logits)
    chosen = torch.add(shift, chosen, alpha=rows.scale)[:, 0]  # without a floor
    found = cut(logits, rows) if cut else None
    sums = rows.sums(logits, None if found is None else found.threshold)
    saved = _finish(shift[:, 0], sums, found)
    return chosen * LN2 - saved.log_total, saved


def _finish(shift: Tensor, sums: Tensor, found: Cut | None) -> Saved:
    """Turn the sums of rows into entropies and kept mass."""
    total, weighted, kept, weighted_kept = sums.unbind(1)
    log_total = total.log()
    entropy = log_total - LN2 * weighted / total
    if found is None:
        one = torch.ones_like(total)
        return Saved(shift, log_total, entropy, entropy, one, one * -math.inf, one)
    # The tokens on the threshold as one term: taking a share of many away again from a sum that
    # holds them all would cancel.
    tied = found.places * torch.exp2(found.threshold)
    kept, weighted_kept = kept + tied, weighted_kept + tied * found.threshold
    clamped = kept.log() - LN2 * weighted_kept / kept
    mass = (kept / total).clamp_(max=1.0)  # the two sums are rounded apart
    return Saved(shift, log_total, entropy, clamped, mass, found.threshold, found.share)
