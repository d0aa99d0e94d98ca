"""Advantage estimators: pure functions from rewards (and values) to a number a response token.

A new estimator is one function here, one line in `ESTIMATORS` and one model in
`aent.config.method`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aent.config.method import Advantage, GaeAdvantage, GrpoAdvantage, RlooAdvantage


@dataclass(frozen=True)
class Estimate:
    """Advantages of response tokens, and what a critic should learn from them."""

    advantages: Tensor
    """[B, R], zero where masked."""
    returns: Tensor | None = None
    """[B, R], targets of the critic; None without one."""


def grpo(rewards: Tensor, *, normalise: bool = True, epsilon: float = 1e-6) -> Tensor:
    """Group-relative advantages (GRPO, arXiv 2402.03300, equation 3 for outcome rewards).

    Args:
        rewards: [P, S], a row a prompt.
        normalise: divide by the group's sample standard deviation.
        epsilon: added to the standard deviation; a group of equal rewards gives zeros.

    Returns:
        [P, S].
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if not normalise:
        return centred
    return centred / (rewards.std(dim=1, keepdim=True) + epsilon)


def rloo(rewards: Tensor) -> Tensor:
    """Reward minus the mean reward of the group's other samples (RLOO, arXiv 2402.14740).

    Args:
        rewards: [P, S], a row a prompt, S >= 2.

    Returns:
        [P, S].
    """
    samples = rewards.shape[1]
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (samples - 1)
    return rewards - others


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float = 1.0, trace: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438) with the reward on the last token.

    Args:
        rewards: [B], one for a whole response.
        values: [B, R], the critic's value of the state before each response token.
        mask: [B, R] bool, True on response tokens, which come first in a row.
        discount: gamma.
        trace: lambda.

    Returns:
        Advantages and returns (advantages + values), both [B, R], zero where masked.
    """
    here = mask.to(values.dtype)
    values = values * here
    last = here - torch.cat([here[:, 1:], torch.zeros_like(here[:, :1])], dim=1)
    token_rewards = last * rewards[:, None]
    advantages = torch.zeros_like(values)
    running = torch.zeros_like(values[:, 0]) if values.shape[1] else values.new_zeros(0)
    following = torch.zeros_like(running)
    for t in range(values.shape[1] - 1, -1, -1):
        delta = token_rewards[:, t] + discount * following - values[:, t]
        running = (delta + discount * trace * running) * here[:, t]
        advantages[:, t] = running
        following = values[:, t]
    return advantages, (advantages + values) * here


Pool = Callable[[Tensor], Tensor]
"""Makes one process's numbers [n] those of all processes."""


def whiten(values: Tensor, mask: Tensor, epsilon: float = 1e-8, pool: Pool | None = None) -> Tensor:
    """Values with mean 0 and standard deviation 1 over the mask, zero elsewhere; [B, R].

    Args:
        values: [B, R].
        mask: [B, R] bool.
        epsilon: added to the standard deviation.
        pool: widens mean and deviation to the values of all processes.
    """
    chosen = values[mask]
    chosen = pool(chosen) if pool else chosen
    if chosen.numel() < 2:
        return torch.zeros_like(values)
    return (values - chosen.mean()) / (chosen.std() + epsilon) * mask


def _per_token(advantages: Tensor, mask: Tensor) -> Estimate:
    return Estimate(advantages.reshape(-1, 1) * mask)


def _estimate_grpo(
    config: GrpoAdvantage, rewards: Tensor, mask: Tensor, values: Tensor | None, pool: Pool | None
) -> Estimate:
    return _per_token(grpo(rewards, normalise=config.normalise, epsilon=config.epsilon), mask)


def _estimate_rloo(
    config: RlooAdvantage, rewards: Tensor, mask: Tensor, values: Tensor | None, pool: Pool | None
) -> Estimate:
    return _per_token(rloo(rewards), mask)


def _estimate_gae(
    config: GaeAdvantage, rewards: Tensor, mask: Tensor, values: Tensor | None, pool: Pool | None
) -> Estimate:
    if values is None:
        raise ValueError("gae needs the values of a critic; the method has none")
    advantages, returns = gae(
        rewards.reshape(-1), values, mask, discount=config.discount, trace=config.trace
    )
    if config.whiten:
        advantages = whiten(advantages, mask, pool=pool)
    return Estimate(advantages, returns)


ESTIMATORS: dict[str, Callable[[Any, Tensor, Tensor, Tensor | None, Pool | None], Estimate]] = {
    "grpo": _estimate_grpo,
    "rloo": _estimate_rloo,
    "gae": _estimate_gae,
}


def estimate(
    config: Advantage,
    rewards: Tensor,
    mask: Tensor,
    values: Tensor | None = None,
    pool: Pool | None = None,
) -> Estimate:
    """Advantages of a step's responses by the configured estimator.

    Args:
        config: the estimator and its options.
        rewards: [P, S], a row a prompt.
        mask: [P * S, R] bool, True on response tokens.
        values: [P * S, R], where a critic gives them.
        pool: where several processes have a share of the prompts each; groups stay whole.
    """
    return ESTIMATORS[config.kind](config, rewards, mask, values, pool)
