"""Truncated importance weights: by hand, and that the loss is weighted by them."""

import math

import pytest
import torch

from aent.advantages import Estimate
from aent.config.method import Method
from aent.config.setting import Trainer
from aent.experience import Experience
from aent.importance import importance
from aent.processes import Processes
from aent.update import TokenMeans, Updater


def test_ratios_are_truncated_and_gaps_measured():
    trainer = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, 0.0, 0.0]])
    sampler = torch.tensor([[-1.0, -2.0 - math.log(4), -3.0 + math.log(2)], [math.nan, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    found = importance(trainer, sampler, mask, cap=2.0)
    expected = torch.tensor([[1.0, 2.0, 0.5], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(found.weights, expected)
    metrics = found.metrics(Processes())
    assert metrics["policy/importance_ratio_mean"] == pytest.approx((1 + 4 + 0.5 + 1) / 4)
    assert metrics["policy/importance_ratio_max"] == pytest.approx(4)
    assert metrics["policy/importance_ratio_min"] == pytest.approx(0.5)
    assert metrics["policy/importance_truncated_fraction"] == 0.25
    assert metrics["policy/sampler_gap_mean"] == pytest.approx((math.log(4) + math.log(2)) / 4)


def test_the_loss_is_weighted_and_the_policy_is_its_own_old_one(tiny_qwen, ragged_rollouts):
    method = Method.model_validate({"advantage": "grpo", "surrogate": "ppo_clip"})
    config = Trainer(prompts=2, samples=2, minibatches=1)
    updater = Updater(tiny_qwen, method, config, 1.0)
    rollouts, found = updater.weigh(ragged_rollouts, cap=1.5)
    mask = rollouts.response_mask
    with torch.no_grad():
        own = updater.token_policy(ragged_rollouts).logprob
    torch.testing.assert_close(rollouts.logprobs[mask], own)
    ratios = (own - ragged_rollouts.logprobs[mask]).exp()
    torch.testing.assert_close(found.weights[mask], ratios.clamp(max=1.5))
    assert (ratios > 1.5).any()
    assert (ratios < 1.5).any()
    advantages = torch.tensor([1.2, -0.7, 0.4, -1.5])[:, None] * mask
    common = {"prompted": [], "completions": [], "verdicts": [], "values": None}
    experience = Experience(
        rollouts=rollouts,
        rewards=torch.zeros(2, 2),
        estimate=Estimate(advantages),
        rollout_s=0.0,
        reward_s=0.0,
        importance=found,
        **common,
    )
    loss = updater._loss(experience, torch.arange(4), 0.0, True, TokenMeans())
    # At the old policy itself no ratio is clipped, and each token's loss is -advantage.
    expected = -(ratios.clamp(max=1.5) * advantages[mask]).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
