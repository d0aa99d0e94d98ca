"""How a minibatch is cut into the pieces that one forward pass takes."""

from __future__ import annotations

import torch
from torch import Tensor

from aent.rollout.engine import Rollouts


def micro_batches(rollouts: Rollouts, rows: Tensor, budget: int | None) -> list[Tensor]:
    """Rows by length, cut to the token budget, so that padding and memory stay small.

    Args:
        rollouts: B rows.
        rows: [b] indices.
        budget: padded tokens of a piece; a longer row is a piece by itself. None for no limit.

    Returns:
        Indices [n] of each piece.
    """
    if budget is None:
        return [rows]
    lengths = torch.stack(
        [mask.sum(dim=1) for mask in (rollouts.prompt_mask, rollouts.response_mask)], dim=1
    ).cpu()[rows]
    order = torch.argsort(lengths.sum(dim=1), stable=True)
    batches: list[list[int]] = []
    widest = torch.zeros(2, dtype=lengths.dtype)
    for row, size in zip(rows[order].tolist(), lengths[order], strict=True):
        wider = torch.maximum(widest, size)
        if batches and int(wider.sum()) * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(row)
            widest = wider
        else:
            batches.append([row])
            widest = size
    return [torch.tensor(batch) for batch in batches]


def cut_to(pieces: list[Tensor], count: int) -> list[Tensor]:
    """Halve the pieces with most rows until there are `count`, as many as other processes have.

    Raises:
        ValueError: there are more pieces already, or fewer rows than that.
    """
    pieces = list(pieces)
    if not len(pieces) <= count <= sum(map(len, pieces)):
        raise ValueError(
            f"{len(pieces)} pieces of {sum(map(len, pieces))} rows cannot be cut to {count}"
        )
    while len(pieces) < count:
        place = max(range(len(pieces)), key=lambda n: len(pieces[n]))
        half = len(pieces[place]) // 2
        pieces[place : place + 1] = [pieces[place][:half], pieces[place][half:]]
    return pieces
