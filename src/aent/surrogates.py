"""Policy surrogates: pure functions from log-probabilities and advantages to a loss a token.

A new surrogate is one function here, one line in `SURROGATES` and one model in
`aent.config.method`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aent.config.method import PpoClip, Surrogate


class SurrogateLoss(NamedTuple):
    """A loss to minimise and where the clip cut it, a number a token."""

    loss: Tensor
    """[N]."""
    clipped: Tensor
    """[N] bool: the clipped branch was taken and the gradient is zero (or dual-clipped)."""


def ppo_clip(
    logprob: Tensor,
    old_logprob: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> SurrogateLoss:
    """PPO's clipped surrogate (arXiv 1707.06347, equation 7), negated.

    Args:
        logprob: [N], log-probability of the token under the current policy.
        old_logprob: [N], the same under the policy that sampled it.
        advantages: [N].
        clip_low: the ratio counts down to 1 - clip_low.
        clip_high: the ratio counts up to 1 + clip_high; larger than clip_low is DAPO's
            clip-higher (arXiv 2503.14476).
        dual_clip: bound on the loss where the advantage is negative (arXiv 1912.09729).
    """
    ratio = torch.exp(logprob - old_logprob)
    plain = -ratio * advantages
    bounded = -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    loss = torch.maximum(plain, bounded)
    clipped = bounded > plain
    if dual_clip is not None:
        ceiling = -dual_clip * advantages
        above = (advantages < 0) & (loss > ceiling)
        loss = torch.where(above, ceiling, loss)
        clipped = clipped | above
    return SurrogateLoss(loss, clipped)


def _ppo_clip(config: PpoClip, logprob: Tensor, old: Tensor, advantages: Tensor) -> SurrogateLoss:
    return ppo_clip(
        logprob,
        old,
        advantages,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
    )


SURROGATES: dict[str, Callable[[Any, Tensor, Tensor, Tensor], SurrogateLoss]] = {
    "ppo_clip": _ppo_clip
}


def surrogate_loss(
    config: Surrogate, logprob: Tensor, old_logprob: Tensor, advantages: Tensor
) -> SurrogateLoss:
    """The configured surrogate, a loss a token; all tensors [N]."""
    return SURROGATES[config.kind](config, logprob, old_logprob, advantages)
