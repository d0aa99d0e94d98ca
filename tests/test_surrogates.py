"""The surrogate against values worked out by hand."""

import torch

from aent.config.method import PpoClip
from aent.surrogates import ppo_clip, surrogate_loss


def test_ppo_clip_by_hand():
    old = torch.zeros(6)
    logprob = torch.log(torch.tensor([1.0, 1.1, 1.5, 0.5, 1.5, 0.5]))
    advantages = torch.tensor([2.0, 1.0, 1.0, 1.0, -1.0, -1.0])
    result = ppo_clip(logprob, old, advantages)
    # min(r A, clip(r) A), negated: gains are capped at 1.2, losses at 0.8; the bad side is not.
    torch.testing.assert_close(result.loss, -torch.tensor([2.0, 1.1, 1.2, 0.5, -1.5, -0.8]))
    assert result.clipped.tolist() == [False, False, True, False, False, True]


def test_clip_higher_moves_only_the_upper_bound():
    logprob = torch.log(torch.tensor([1.27, 1.5, 0.5]))
    result = ppo_clip(
        logprob, torch.zeros(3), torch.tensor([1.0, 1.0, -1.0]), clip_low=0.2, clip_high=0.28
    )
    torch.testing.assert_close(result.loss, -torch.tensor([1.27, 1.28, -0.8]))


def test_dual_clip_bounds_the_loss_of_negative_advantages():
    logprob = torch.log(torch.tensor([5.0, 5.0, 2.0]))
    result = ppo_clip(logprob, torch.zeros(3), torch.tensor([-1.0, 1.0, -1.0]), dual_clip=3.0)
    torch.testing.assert_close(result.loss, -torch.tensor([-3.0, 1.2, -2.0]))
    assert result.clipped.tolist() == [True, True, False]


def test_gradient_is_zero_where_clipped_and_the_advantage_on_policy():
    logprob = torch.tensor([0.0, 1.0], requires_grad=True)
    advantages = torch.tensor([0.7, 0.7])
    surrogate_loss(
        PpoClip(kind="ppo_clip"), logprob, torch.zeros(2), advantages
    ).loss.sum().backward()
    torch.testing.assert_close(logprob.grad, torch.tensor([-0.7, 0.0]))
