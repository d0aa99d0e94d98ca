"""AEnt inside TRL's trainer, against TRL alone and against plain autograd."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason="the integration needs TRL: pip install .[trl]")

from aent.config import ConfigError
from aent.integrations.trl import STATE_NAME

METRICS = [
    "entropy/full",
    "entropy/clamped",
    "entropy/kept_mass",
    "entropy/coefficient",
    "loss/entropy",
]
RULE = {
    "kind": "adaptive",
    "initial": 0.02,
    "low": 10.0,
    "high": 20.0,
    "rate": 0.001,
    "min": 0.005,
    "max": 0.04,
}
CLAMP = {"kind": "rank_fraction", "drop": 0.5}
# Several optimizer steps a generation batch, each of several micro-batches, used twice.
SPLIT = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 4,
    "num_iterations": 2,
}

# --- Loss ---


def test_without_the_term_ten_losses_equal_trls(wiring, history):
    plain = wiring.grpo(max_steps=10, **SPLIT)
    plain.train()
    ours = wiring.aent(max_steps=10, coefficient_rule=None, **SPLIT)
    ours.train()

    losses = history(plain, "loss")
    assert len(losses) == 10
    assert max(map(abs, losses)) > 0.01  # ratios and clipping are at work
    assert history(ours, "loss") == pytest.approx(losses, abs=1e-6)
    assert history(ours, "reward") == history(plain, "reward")  # the same completions
    assert history(ours, "entropy") == pytest.approx(history(plain, "entropy"), abs=1e-5)
    for name in METRICS:
        assert len(history(ours, name)) == 2  # generation batches that were used up
    assert history(ours, "entropy/coefficient") == [0.0, 0.0]
    assert history(ours, "loss/entropy") == [0.0, 0.0]


def kept_tokens(space, probabilities):
    """Plain definition of the token spaces, for distinct probabilities: [..., V] booleans."""
    size = probabilities.shape[-1]
    ordered, order = probabilities.sort(descending=True)
    rank = order.argsort()
    if space["kind"] == "rank_fraction":
        return rank < size - int(space["drop"] * size)
    if space["kind"] == "top_k":
        return rank < space["k"]
    if space["kind"] == "nucleus":
        return (ordered.cumsum(-1) - ordered < space["mass"]).gather(-1, rank)
    if space["kind"] == "min_p":
        return probabilities >= space["epsilon"] * ordered[..., :1]
    return torch.ones_like(probabilities, dtype=torch.bool)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
@pytest.mark.parametrize(
    "space",
    [
        {"kind": "full"},
        {"kind": "rank_fraction", "drop": 0.33},
        {"kind": "top_k", "k": 7},
        {"kind": "nucleus", "mass": 0.8},
        {"kind": "min_p", "epsilon": 0.1},
    ],
    ids=lambda space: space["kind"],
)
def test_loss_and_gradient_equal_trls_minus_plain_entropy(
    wiring, ragged_rollouts, space, loss_type
):
    options = {"loss_type": loss_type, "temperature": 0.7}
    value = 0.3
    ours = wiring.aent(token_space=space, coefficient_rule=constant(value), **options)
    theirs = wiring.grpo(**options)
    batch = inputs(ragged_rollouts)
    losses = {}
    for trainer in (ours, theirs):
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        losses[trainer] = trainer._compute_loss(trainer.model, batch)

    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    width = batch["completion_ids"].shape[1]
    logits = theirs.model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]
    logprobs = (logits / 0.7).log_softmax(-1)
    kept = kept_tokens(space, logprobs.detach().exp())
    logprobs = logprobs.masked_fill(~kept, -torch.inf).log_softmax(-1).masked_fill(~kept, 0.0)
    entropy = -(logprobs.exp() * kept * logprobs).sum(-1)
    chosen = batch["completion_mask"].bool()
    expected = losses[theirs] - value * entropy[chosen].mean()

    assert losses[ours].item() == pytest.approx(expected.item(), abs=1e-5)
    losses[ours].backward()
    expected.backward()
    pairs = zip(ours.model.named_parameters(), theirs.model.parameters(), strict=True)
    for (name, mine), other in pairs:
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-5, msg=name)


def test_tokens_of_tools_are_left_out(wiring, ragged_rollouts):
    trainer = wiring.aent(coefficient_rule=constant(1.0), token_space="full")
    trainer.current_gradient_accumulation_steps = 1
    batch = inputs(ragged_rollouts)
    batch["advantages"] = torch.zeros(4)
    tools = batch["completion_mask"].clone()
    tools[:, 0] = 0
    batch["num_items_in_batch"] = tools.sum()
    loss = trainer._compute_loss(trainer.model.train(), {**batch, "tool_mask": tools})
    full, _, _, tokens = trainer._sums.tolist()
    assert tokens == tools.sum().item()
    assert loss.item() == pytest.approx(-full / tokens, rel=1e-5)


def test_tokens_of_unequal_minibatches_weigh_the_same(wiring, ragged_rollouts):
    trainer = wiring.aent(coefficient_rule=constant(1.0), token_space="full", **SPLIT)
    trainer.current_gradient_accumulation_steps = 2
    batch = inputs(ragged_rollouts) | {"advantages": torch.zeros(4)}
    # Four micro-batches with 88 tokens in all are two optimizer steps: 44 tokens a step.
    batch["num_items_in_batch"] = torch.tensor(88)
    loss = trainer._compute_loss(trainer.model.train(), batch)
    assert loss.item() == pytest.approx(-trainer._sums[0].item() / 44, rel=1e-5)


def test_one_forward_pass_a_micro_batch(wiring, ragged_rollouts):
    trainer = wiring.aent()
    trainer.current_gradient_accumulation_steps = 1
    calls = []
    trainer.model.base_model.register_forward_hook(lambda *_: calls.append(1))
    trainer._compute_loss(trainer.model, inputs(ragged_rollouts))
    assert len(calls) == 1


def test_mixed_precision_agrees_with_trl(wiring, ragged_rollouts):
    batch = inputs(ragged_rollouts)
    entropies, losses = [], []
    for trainer in (wiring.aent(bf16=True, coefficient_rule=None), wiring.grpo(bf16=True)):
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        with trainer.accelerator.autocast():
            losses.append(trainer._compute_loss(trainer.model, batch).item())
        entropies.append(trainer._metrics["train"]["entropy"][0])
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
    assert entropies[0] == pytest.approx(entropies[1], abs=2e-3)


def test_trls_own_bonus_works_without_a_rule(wiring, ragged_rollouts):
    trainers = [
        wiring.aent(coefficient_rule=None, entropy_coef=0.1),
        wiring.grpo(entropy_coef=0.1),
    ]
    losses = []
    for trainer in trainers:
        trainer.current_gradient_accumulation_steps = 1
        losses.append(trainer._compute_loss(trainer.model, inputs(ragged_rollouts)).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def constant(value):
    return {"kind": "constant", "value": value}


def inputs(rollouts):
    """A micro-batch as TRL makes it."""
    return {
        "prompt_ids": rollouts.prompt_ids,
        "prompt_mask": rollouts.prompt_mask.long(),
        "completion_ids": rollouts.response_ids,
        "completion_mask": rollouts.response_mask.long(),
        "advantages": torch.tensor([1.2, -0.7, 0.4, -1.5]),
        "old_per_token_logps": rollouts.logprobs,
        "num_items_in_batch": rollouts.response_mask.sum(),
    }


# --- Coefficient ---


@pytest.mark.parametrize(
    ("band", "direction"), [((10.0, 20.0), 1), ((0.0, 10.0), 0), ((0.0, 0.1), -1)]
)
def test_coefficient_follows_the_rule_and_stays_in_its_box(wiring, history, band, direction):
    rule = RULE | {"low": band[0], "high": band[1], "warmup_steps": 2, "rate": 0.0025}
    trainer = wiring.aent(coefficient_rule=rule, token_space=CLAMP, max_steps=6)
    trainer.train()

    values, entropies = history(trainer, "entropy/coefficient"), history(trainer, "entropy/clamped")
    assert len(values) == 6
    expected = [0.02]
    for step, entropy in enumerate(entropies, start=1):
        excursion = min(0.0, entropy - band[0]) + max(0.0, entropy - band[1])
        moved = expected[-1] - (step > 2) * 0.0025 * excursion
        expected.append(min(max(moved, 0.005), 0.04))
    assert values == pytest.approx(expected[:-1], rel=1e-9)
    assert trainer.controller.value == pytest.approx(expected[-1], rel=1e-9)
    assert values[:3] == [0.02] * 3  # two steps of warm-up, and the third saw them
    assert values[-1] == pytest.approx({1: 0.04, 0: 0.02, -1: 0.005}[direction])
    terms = [-value * entropy for value, entropy in zip(values, entropies, strict=True)]
    assert history(trainer, "loss/entropy") == pytest.approx(terms, rel=1e-9)
    clamped, full = entropies[0], history(trainer, "entropy/full")[0]
    assert 0 < clamped < full
    assert 0.5 < history(trainer, "entropy/kept_mass")[0] < 1


def test_accumulation_changes_nothing(wiring, history):
    runs = []
    for size, accumulation in ((8, 1), (4, 2), (2, 4)):
        trainer = wiring.aent(
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            coefficient_rule=RULE,
            token_space=CLAMP,
        )
        trainer.train()
        runs.append([history(trainer, name) for name in METRICS])
        assert trainer.finished_steps == 4
    assert len(set(runs[0][3])) == 4  # the coefficient moves every step
    for other in runs[1:]:
        for values, expected in zip(other, runs[0], strict=True):
            assert values == pytest.approx(expected, rel=1e-5)


def test_a_step_is_a_generation_batch(wiring, history):
    trainer = wiring.aent(coefficient_rule=RULE, max_steps=8, **SPLIT)
    used = []
    compute = trainer._compute_loss
    trainer._compute_loss = lambda *args: used.append(trainer.controller.value) or compute(*args)
    trainer.train()
    # 8 micro-batches (4 of the batch, twice) in 4 optimizer steps share a coefficient.
    assert trainer.finished_steps == 2
    assert used == [0.02] * 8 + [history(trainer, "entropy/coefficient")[1]] * 8
    assert used[0] < used[8] < trainer.controller.value


def test_a_step_without_tokens_leaves_the_coefficient(wiring, history):
    trainer = wiring.aent(coefficient_rule=RULE, max_steps=2, mask_truncated_completions=True)
    trainer.generation_config.suppress_tokens = [0, 1]  # no completion ever ends
    trainer.train()
    assert trainer.finished_steps == 2
    assert trainer.controller.value == 0.02
    assert history(trainer, "entropy/clamped") == []
    assert all(torch.isfinite(value).all() for value in trainer.model.parameters())


def test_evaluation_logs_and_moves_nothing(wiring):
    trainer = wiring.aent(coefficient_rule=RULE)
    metrics = trainer.evaluate(trainer.train_dataset)
    assert {f"eval_{name}" for name in METRICS} <= trainer.state.log_history[-1].keys() | set(
        metrics
    )
    assert trainer.controller.value == 0.02
    assert trainer.finished_steps == 0
    assert trainer._sums == 0


# --- Checkpoints ---


def test_resuming_continues_the_coefficient(wiring, history):
    options = {"coefficient_rule": RULE, "token_space": CLAMP, "max_steps": 5}
    options |= {"save_strategy": "steps", "save_steps": 3}
    whole = wiring.aent(**options)
    whole.train()
    values = history(whole, "entropy/coefficient")
    checkpoint = f"{whole.args.output_dir}/checkpoint-3"
    state = json.loads(Path(checkpoint, STATE_NAME).read_text())
    assert state["finished_steps"] == 3
    assert state["controller"]["value"] == values[3]

    resumed = wiring.aent(**options)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.finished_steps == 5
    assert history(resumed, "entropy/coefficient") == pytest.approx(values, rel=1e-6)
    assert resumed.controller.value == pytest.approx(whole.controller.value, rel=1e-6)


def test_checkpoints_of_other_runs(wiring, history, caplog):
    trainer = wiring.aent(coefficient_rule=RULE, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.train()
    folder = f"{trainer.args.output_dir}/checkpoint-1"

    changed = RULE | {"initial": 0.03}
    other = wiring.aent(coefficient_rule=changed, max_steps=2)
    other.train(resume_from_checkpoint=folder)
    assert history(other, "entropy/coefficient") == [0.02, 0.03]
    assert "lambda starts anew" in caplog.text

    path = Path(folder, STATE_NAME)
    path.write_text('{"rule": 1}')
    broken = wiring.aent(coefficient_rule=RULE)
    with pytest.raises(ConfigError, match=r"checkpoint-1/aent_coefficient.json: not a coefficient"):
        broken.train(resume_from_checkpoint=folder)
    path.unlink()
    foreign = wiring.aent(coefficient_rule=RULE, max_steps=2)
    foreign.train(resume_from_checkpoint=folder)
    assert history(foreign, "entropy/coefficient")[1] == 0.02
    assert "is missing: the coefficient starts at 0.02" in caplog.text
