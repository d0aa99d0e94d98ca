"""Advantages against values worked out by hand."""

import pytest
import torch

from aent.advantages import estimate, gae, grpo, rloo, whiten
from aent.config.method import GaeAdvantage, GrpoAdvantage, RlooAdvantage


def test_grpo_divides_by_the_sample_standard_deviation():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    # Row 1: mean 1/4, squared deviations 9/16 + 3/16 = 3/4, divided by 3: std 1/2.
    # Row 2: mean 1/2, squared deviations 1, divided by 3: std 0.57735.
    expected = torch.tensor([[1.5, -0.5, -0.5, -0.5], [0.866025, 0.866025, -0.866025, -0.866025]])
    torch.testing.assert_close(grpo(rewards), expected, atol=1e-5, rtol=0)


def test_grpo_without_normalisation_only_centres():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[0.75, -0.25, -0.25, -0.25]])
    torch.testing.assert_close(grpo(rewards, normalise=False), expected)


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_equal_rewards_give_zero_advantages(reward):
    rewards = torch.full((2, 8), reward)
    assert torch.equal(grpo(rewards), torch.zeros(2, 8))
    assert torch.equal(rloo(rewards), torch.zeros(2, 8))


def test_rloo_subtracts_the_mean_of_the_others():
    rewards = torch.tensor([[1.0, 0.0, 0.5]])
    expected = torch.tensor([[0.75, -0.75, 0.0]])
    torch.testing.assert_close(rloo(rewards), expected)


def test_gae_by_hand():
    values = torch.tensor([[0.5, 0.25, 0.0], [0.2, 0.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    advantages, returns = gae(torch.tensor([1.0, 0.0]), values, mask, discount=0.9, trace=0.8)
    # Row 1, backwards: 1 - 0 = 1; 0.9*0 - 0.25 + 0.72*1 = 0.47; 0.9*0.25 - 0.5 + 0.72*0.47.
    expected = torch.tensor([[0.0634, 0.47, 1.0], [-0.2, 0.0, 0.0]])
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, torch.tensor([[0.5634, 0.72, 1.0], [0.0, 0.0, 0.0]]))


def test_gae_with_trace_one_is_reward_minus_value():
    values = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([7, 1, 3, 5, 2])
    mask = torch.arange(7) < lengths[:, None]
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    advantages, returns = gae(rewards, values, mask)
    torch.testing.assert_close(advantages, (rewards[:, None] - values) * mask)
    torch.testing.assert_close(returns, rewards[:, None] * mask)


def test_whiten_over_the_mask():
    values = torch.tensor([[1.0, 2.0, 99.0], [3.0, 99.0, 99.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    expected = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(whiten(values, mask), expected)


def test_whiten_of_a_single_token_is_zero():
    assert torch.equal(whiten(torch.ones(1, 1), torch.ones(1, 1).bool()), torch.zeros(1, 1))


def test_estimate_spreads_a_response_over_its_tokens():
    mask = torch.tensor([[True, True], [True, False]])
    result = estimate(RlooAdvantage(kind="rloo"), torch.tensor([[1.0, 0.0]]), mask)
    assert torch.equal(result.advantages, torch.tensor([[1.0, 1.0], [-1.0, 0.0]]))
    assert result.returns is None


def test_estimate_passes_options():
    mask = torch.ones(2, 1).bool()
    config = GrpoAdvantage(kind="grpo", normalise=False)
    result = estimate(config, torch.tensor([[1.0, 0.0]]), mask)
    assert torch.equal(result.advantages, torch.tensor([[0.5], [-0.5]]))


def test_gae_without_values_names_what_is_missing():
    with pytest.raises(ValueError, match="critic"):
        estimate(GaeAdvantage(kind="gae"), torch.zeros(1, 2), torch.ones(2, 3).bool())
