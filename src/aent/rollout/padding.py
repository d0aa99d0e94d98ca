"""Token lists as tensors: prompts padded on the left, responses on the right."""

from __future__ import annotations

import torch
from torch import Tensor


def left_padded(
    prompts: list[list[int]], pad_id: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Ids [p, P] and their mask [p, P], which is True on tokens."""
    width = max(map(len, prompts))
    ids = [[pad_id] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def right_padded(
    rows: list[list[int]] | list[list[float]],
    fill: float,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Values [b, R], R the longest row's length."""
    width = max(map(len, rows))
    filled = [[*row, *[fill] * (width - len(row))] for row in rows]
    return torch.tensor(filled, dtype=dtype, device=device)
