"""The critic of PPO: the base model's transformer with a scalar head, and its clipped loss."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aent.forward import response_hidden
from aent.rollout.engine import Rollouts


class ValueModel(nn.Module):
    """Value of the state before each response token."""

    def __init__(self, policy: PreTrainedModel):
        """Start from a copy of the policy's transformer; the head starts at zero.

        A zero head makes the first values 0, whatever the transformer computes, so that the first
        advantages are the returns themselves.
        """
        super().__init__()
        self.transformer = copy.deepcopy(policy.get_decoder())
        self._no_split_modules = self.transformer._no_split_modules  # where FSDP2 may cut
        self.head = nn.Linear(policy.config.hidden_size, 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, rollouts: Rollouts) -> Tensor:
        """Values [N] of the N response tokens, row by row."""
        hidden = response_hidden(self.transformer, rollouts)
        values: Tensor = self.head(hidden.to(self.head.weight.dtype)).squeeze(-1)
        return values


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """Squared error, or PPO's pessimistic maximum with the change of value clipped.

    Args:
        values: [N], current values.
        old: [N], values at collection.
        returns: [N], targets.
        clip: largest change of a value that counts; None for the plain squared error.

    Returns:
        [N], half the squared error a token.
    """
    loss = (values - returns) ** 2
    if clip is not None:
        bounded = old + (values - old).clamp(-clip, clip)
        loss = torch.maximum(loss, (bounded - returns) ** 2)
    return 0.5 * loss
