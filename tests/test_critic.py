"""The critic's loss and where its values come from."""

import torch

from aent.critic import ValueModel, value_loss


def test_value_loss_by_hand():
    values, old = torch.tensor([0.5, 0.9, 0.1]), torch.tensor([0.4, 0.4, 0.4])
    returns = torch.tensor([1.0, 1.0, 1.0])
    # Changes of 0.1, 0.5 -> 0.2, -0.3 -> -0.2; the larger error of the two counts.
    expected = 0.5 * torch.tensor([0.25, 0.16, 0.81])
    torch.testing.assert_close(value_loss(values, old, returns, clip=0.2), expected)
    plain = 0.5 * torch.tensor([0.25, 0.01, 0.81])
    torch.testing.assert_close(value_loss(values, old, returns, clip=None), plain)


def test_fresh_values_are_zero_and_one_a_response_token(tiny_qwen, ragged_rollouts):
    critic = ValueModel(tiny_qwen)
    assert torch.equal(critic(ragged_rollouts), torch.zeros(11))


def test_the_critic_shares_no_weights_with_the_policy(tiny_qwen):
    theirs = {parameter.data_ptr() for parameter in tiny_qwen.parameters()}
    ours = {parameter.data_ptr() for parameter in ValueModel(tiny_qwen).parameters()}
    assert not theirs & ours
