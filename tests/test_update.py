"""The update against the plain definition of its loss, and what must not change it."""

import copy
import dataclasses
import math

import pytest
import torch

from aent.advantages import Estimate, estimate
from aent.config.method import Method
from aent.config.setting import Trainer
from aent.critic import ValueModel
from aent.experience import Experience
from aent.failure import NonFiniteError
from aent.forward import response_hidden
from aent.rewards import Verdict
from aent.update import TokenMeans, Updater

ADVANTAGES = torch.tensor([1.2, -0.7, 0.4, -1.5])
BASE = {"advantage": "grpo", "surrogate": "ppo_clip"}
CLAMPED = {"space": {"kind": "rank_fraction", "drop": 0.5}}
CONSTANT = {"coefficient": {"kind": "constant", "value": 0.1}}


def _method(**changes):
    return Method.model_validate(BASE | changes)


def _experience(rollouts, values=None, returns=None):
    advantages = ADVANTAGES[:, None] * rollouts.response_mask
    return Experience(
        prompted=[],
        rollouts=rollouts,
        completions=[],
        verdicts=[],
        rewards=torch.zeros(2, 2),
        estimate=Estimate(advantages, returns),
        values=values,
        rollout_s=0.0,
        reward_s=0.0,
    )


def _updater(model, method, critic=None, temperature=1.0, **trainer):
    config = Trainer(**({"prompts": 2, "samples": 2, "minibatches": 1} | trainer))
    return Updater(model, method, config, temperature, critic)


def _plain_loss(model, rollouts, coefficient, dropped, temperature):
    """Sum over tokens of the clipped surrogate minus lambda times the clamped entropy."""
    mask = rollouts.response_mask
    hidden = response_hidden(model.get_decoder(), rollouts)
    logits = model.lm_head(hidden).double() / temperature
    logp = logits.log_softmax(-1).gather(1, rollouts.response_ids[mask][:, None]).squeeze(1)
    ratio = (logp - rollouts.logprobs[mask]).exp()
    advantages = (ADVANTAGES[:, None] * mask)[mask]
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    kept = logits.topk(logits.shape[1] - dropped, dim=1).values.log_softmax(-1)
    entropy = -(kept.exp() * kept).sum(-1)
    return (-surrogate - coefficient * entropy).sum(), entropy


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("space", "dropped"), [(CLAMPED, 30), ({"space": "full"}, 0)])
def test_loss_and_gradient_are_the_definition(
    tiny_qwen, ragged_rollouts, space, dropped, temperature
):
    reference = copy.deepcopy(tiny_qwen)
    expected, entropy = _plain_loss(reference, ragged_rollouts, 0.1, dropped, temperature)
    expected.backward()
    updater = _updater(tiny_qwen, _method(entropy=space | CONSTANT), temperature=temperature)
    means = TokenMeans()
    loss = updater._loss(_experience(ragged_rollouts), torch.arange(4), 0.1, True, means)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    name = "clamped" if dropped else "full"
    assert means[name] == pytest.approx(entropy.mean().item(), rel=1e-5)
    for ours, theirs in zip(tiny_qwen.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_both_entropies_are_recorded_without_a_bonus(tiny_qwen, ragged_rollouts):
    updater = _updater(tiny_qwen, _method(), measured_space={"kind": "top_k", "k": 2})
    metrics = updater.update(1, _experience(ragged_rollouts), 0.0)
    assert 0 < metrics["entropy/clamped"] <= 0.6932 < metrics["entropy/full"]
    assert 0 < metrics["entropy/kept_mass"] < 1
    assert metrics["loss/entropy"] == 0.0


def test_micro_batches_change_nothing(tiny_qwen, ragged_rollouts):
    models = [tiny_qwen, copy.deepcopy(tiny_qwen)]
    results = []
    for model, budget in zip(models, (None, 12), strict=True):
        updater = _updater(model, _method(entropy=CLAMPED | CONSTANT), micro_batch_tokens=budget)
        results.append(updater.update(1, _experience(ragged_rollouts), 0.1))
    assert results[0] == pytest.approx(results[1], abs=1e-5)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_a_bonus_raises_the_entropy(tiny_qwen, ragged_rollouts):
    with torch.no_grad():
        tiny_qwen.get_input_embeddings().weight.mul_(3)
    method = _method(entropy={"space": "full"} | CONSTANT)
    updater = _updater(tiny_qwen, method, learning_rate=1e-2)
    experience = _experience(ragged_rollouts)
    experience.estimate.advantages.zero_()
    before = updater.update(1, experience, 1.0)["entropy/full"]
    for step in range(2, 6):
        after = updater.update(step, experience, 1.0)["entropy/full"]
    assert after > before + 0.1


def test_the_critic_warms_up_alone(tiny_qwen, ragged_rollouts):
    method = _method(
        advantage="gae", critic={"learning_rate": 0.01, "value_clip": None, "warmup_steps": 1}
    )
    critic = ValueModel(tiny_qwen)
    before = copy.deepcopy(tiny_qwen.state_dict())
    updater = _updater(tiny_qwen, method, critic)
    returns = torch.ones(4, 5) * ragged_rollouts.response_mask
    experience = _experience(ragged_rollouts, values=torch.zeros(4, 5), returns=returns)
    first = updater.update(1, experience, 0.0)
    assert first["loss/value"] == pytest.approx(0.5)  # fresh values are 0, targets 1
    for name, value in tiny_qwen.state_dict().items():
        assert torch.equal(value, before[name]), name
    second = updater.update(2, experience, 0.0)
    assert second["loss/value"] < first["loss/value"]
    assert not torch.equal(tiny_qwen.lm_head.weight, before["lm_head.weight"])


def test_a_non_finite_loss_is_not_applied(tiny_qwen, ragged_rollouts):
    updater = _updater(tiny_qwen, _method())
    experience = _experience(ragged_rollouts)
    experience.estimate.advantages[0, 0] = float("nan")
    before = copy.deepcopy(tiny_qwen.state_dict())
    with pytest.raises(NonFiniteError, match="nan"):
        updater.update(1, experience, 0.0)
    for name, value in tiny_qwen.state_dict().items():
        assert torch.equal(value, before[name]), name


def _spoil_gradient(updater):
    weight = updater.policy.get_input_embeddings().weight
    weight.register_hook(lambda grad: grad * float("inf"))


def _spoil_critic(updater):
    updater.critic.head.weight.register_hook(lambda grad: grad * float("nan"))


@pytest.mark.parametrize(
    ("spoil", "message", "tensor"),
    [
        (_spoil_gradient, "the gradient's norm is inf", "model.embed_tokens.weight (gradient)"),
        (_spoil_critic, "the critic's gradient norm is nan", "critic.head.weight (gradient)"),
    ],
)
def test_a_non_finite_gradient_is_not_applied(tiny_qwen, ragged_rollouts, spoil, message, tensor):
    critic = ValueModel(tiny_qwen)
    updater = _updater(tiny_qwen, _method(advantage="gae", critic={"warmup_steps": 0}), critic)
    spoil(updater)
    values = torch.zeros(4, 5)
    experience = _experience(ragged_rollouts, values=values, returns=values + 1)
    before = copy.deepcopy(tiny_qwen.state_dict()), copy.deepcopy(critic.state_dict())
    with pytest.raises(NonFiniteError, match=message) as raised:
        updater.update(1, experience, 0.0)
    assert raised.value.rows == [0, 1, 2, 3]
    assert tensor in raised.value.tensors
    for state, module in zip(before, (tiny_qwen, critic), strict=True):
        assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())


def test_a_weight_that_is_not_finite_after_the_update_stops_it(
    tiny_qwen, ragged_rollouts, monkeypatch
):
    """Also one that the loss does not depend on, as a row of the embedding that no text uses."""
    updater = _updater(tiny_qwen, _method())
    step = updater.optimizer.step

    def overflow():
        step()
        with torch.no_grad():
            tiny_qwen.model.layers[1].mlp.up_proj.weight[3, 2] = float("inf")

    monkeypatch.setattr(updater.optimizer, "step", overflow)
    with pytest.raises(NonFiniteError, match="a weight is not finite") as raised:
        updater.update(1, _experience(ragged_rollouts), 0.0)
    assert raised.value.tensors == {"model.layers.1.mlp.up_proj.weight": 1}


METHODS = {
    "grpo": _method(),
    "rloo": _method(advantage="rloo"),
    "aent": _method(entropy=CLAMPED | CONSTANT),
    "ppo": _method(advantage="gae", critic={"warmup_steps": 0}),
}
NOTHING, EVERYTHING, MIXED = [[0.0, 0.0]] * 2, [[1.0, 1.0]] * 2, [[1.0, 0.0], [1.0, 1.0]]
# Rewards a prompt and sample, tokens a response, and whether all responses were cut.
EDGES = {
    "no reward at all": (NOTHING, [5, 2, 3, 1], False),
    "equal rewards": (EVERYTHING, [5, 2, 3, 1], False),
    "all truncated": (NOTHING, [5, 5, 5, 5], True),
    "an empty response": (MIXED, [5, 0, 3, 1], False),
    "a minibatch of empty responses": (MIXED, [0, 0, 3, 1], False),
    "one token each": (MIXED, [1, 1, 1, 1], False),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("edge", EDGES)
def test_edge_cases_are_finite(tiny_qwen, ragged_rollouts, method, edge):
    rewards, lengths, cut = torch.tensor(EDGES[edge][0]), *EDGES[edge][1:]
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    rollouts = dataclasses.replace(
        ragged_rollouts,
        response_mask=mask,
        response_ids=ragged_rollouts.response_ids.clamp(min=2) * mask,
        logprobs=torch.full((4, 5), -4.0) * mask,
        truncated=torch.tensor([cut] * 4),
    )
    critic = ValueModel(tiny_qwen) if method == "ppo" else None
    values = torch.zeros(4, 5) if critic else None
    experience = dataclasses.replace(
        _experience(rollouts, values=values),
        rewards=rewards,
        estimate=estimate(METHODS[method].advantage, rewards, mask, values),
        verdicts=[Verdict(0.0, False, False, None)] * 4,
    )
    before = copy.deepcopy(tiny_qwen.state_dict())
    updater = _updater(tiny_qwen, METHODS[method], critic, minibatches=2)
    metrics = updater.update(1, experience, 0.1 if method == "aent" else 0.0)
    recorded = metrics | experience.metrics()
    assert all(math.isfinite(value) for value in recorded.values()), recorded
    assert all(torch.isfinite(weight).all() for weight in tiny_qwen.parameters())
    if method in ("grpo", "rloo") and rewards.std(dim=1).max() == 0:
        # Nothing to prefer: nothing is learnt.
        assert metrics["grad/norm"] == 0
        state = tiny_qwen.state_dict()
        assert all(torch.equal(before[name], value) for name, value in state.items())
    assert recorded["response/truncated_fraction"] == float(cut)
    equal = (rewards[:, 0] == rewards[:, 1]).float().mean().item()
    assert recorded["reward/zero_variance_fraction"] == equal
