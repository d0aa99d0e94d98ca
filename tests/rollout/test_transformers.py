"""The engine over real transformers models, against their own full forward passes."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    DynamicCache,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.cache_utils import LinearAttentionLayer

from aent.forward import response_hidden
from aent.rollout.cache import repeat
from aent.rollout.engine import Rollouts, Sampling
from aent.rollout.transformers import TransformersEngine

VOCABULARY, PAD = 97, 0
EOS = [1, *range(80, 97)]  # many, so that responses end raggedly
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [16, 17], [18, 19, 20, 21]]
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": EOS[0],
}


def wider(model: PreTrainedModel) -> PreTrainedModel:
    """Initial weights, enlarged: attention and positions matter, distributions are uneven."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    return wider(Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True)))


def generate(model, sampling=None, prompts=PROMPTS, seed=0, eos=EOS, **options) -> Rollouts:
    engine = TransformersEngine(model, PAD, eos, **options)
    sampling = sampling or Sampling(samples=6, max_tokens=12)
    return engine.generate(prompts, sampling, torch.Generator().manual_seed(seed))


def recomputed(model: PreTrainedModel, rollouts: Rollouts, temperature: float = 1.0):
    """Log-probabilities [B, R] of the responses by one full pass a row, without any padding."""
    logprobs = torch.zeros_like(rollouts.logprobs)
    for row in range(len(rollouts.response_ids)):
        prompt = rollouts.prompt_ids[row][rollouts.prompt_mask[row]]
        response = rollouts.response_ids[row][rollouts.response_mask[row]]
        with torch.no_grad():
            logits = model(torch.cat([prompt, response])[None]).logits[0].float()
        predicting = logits[len(prompt) - 1 : -1] / temperature
        chosen = predicting.log_softmax(-1).gather(1, response[:, None])
        logprobs[row, : len(response)] = chosen.squeeze(1)
    return logprobs


def assert_well_formed(rollouts: Rollouts, samples: int, limit: int, eos=EOS) -> None:
    """Rows, masks, padding and flags say the same."""
    lengths = rollouts.response_mask.sum(1).tolist()
    assert len(lengths) == len(PROMPTS) * samples
    assert rollouts.response_ids.shape[1] == max(lengths)
    for row, length in enumerate(lengths):
        prompt = rollouts.prompt_ids[row][rollouts.prompt_mask[row]].tolist()
        assert prompt == PROMPTS[row // samples]
        assert rollouts.prompt_mask[row, -1]
        response = rollouts.response_ids[row].tolist()
        assert rollouts.response_mask[row, :length].all()
        assert set(response[length:]) <= {PAD}
        assert not set(response[: length - 1]) & set(eos)
        assert bool(rollouts.truncated[row]) == (response[length - 1] not in eos)
        if rollouts.truncated[row]:
            assert length == limit
    assert (rollouts.logprobs[~rollouts.response_mask] == 0).all()


def test_recorded_logprobs_are_those_of_a_full_pass(model):
    rollouts = generate(model)
    assert_well_formed(rollouts, samples=6, limit=12)
    lengths = rollouts.response_mask.sum(1)
    assert lengths.unique().numel() > 4  # ragged endings
    assert 0 < rollouts.truncated.sum() < len(lengths)
    expected = recomputed(model, rollouts)
    torch.testing.assert_close(rollouts.logprobs, expected, atol=1e-4, rtol=0)


def test_logprobs_are_of_the_whole_vocabulary_at_the_temperature(model):
    sampling = Sampling(samples=4, max_tokens=8, temperature=0.6, top_p=0.95, top_k=20)
    rollouts = generate(model, sampling)
    expected = recomputed(model, rollouts, temperature=0.6)
    torch.testing.assert_close(rollouts.logprobs, expected, atol=1e-4, rtol=0)


def test_logprobs_are_those_of_the_training_pass(model):
    """At the first update of a step the ratio of new to old policy is one."""
    rollouts = generate(model, Sampling(samples=6, max_tokens=12, temperature=0.7, top_k=40))
    with torch.no_grad():
        hidden = response_hidden(model.get_decoder(), rollouts)
        logprobs = (model.get_output_embeddings()(hidden) / 0.7).log_softmax(-1)
    targets = rollouts.response_ids[rollouts.response_mask]
    expected = logprobs.gather(1, targets[:, None]).squeeze(1)
    recorded = rollouts.logprobs[rollouts.response_mask]
    torch.testing.assert_close(recorded, expected, atol=1e-4, rtol=0)


FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8)),
    # A window shorter than the sequences: layers with a cache of their own kind.
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=5)),
    # Logits are capped behind the head; window and full layers alternate.
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **SHAPE,
            head_dim=8,
            sliding_window=5,
            final_logit_softcapping=2.0,
            attn_implementation="eager",
        )
    ),
    # Learned positions: a wrong position id shows.
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=1
        )
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_architectures(family):
    torch.manual_seed(0)
    model = wider(FAMILIES[family]())
    rollouts = generate(model)
    assert_well_formed(rollouts, samples=6, limit=12)
    expected = recomputed(model, rollouts)
    torch.testing.assert_close(rollouts.logprobs, expected, atol=1e-4, rtol=0)


def test_greedy_agrees_with_transformers(model):
    rollouts = generate(model, Sampling(samples=1, max_tokens=10, top_k=1))
    for row, prompt in enumerate(PROMPTS):
        full = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=10,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )[0, len(prompt) :]
        response = rollouts.response_ids[row][rollouts.response_mask[row]]
        assert response.tolist() == full.tolist()


def test_the_generator_state_decides(model):
    first, again, other = generate(model), generate(model), generate(model, seed=1)
    for name in vars(first):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.response_mask, other.response_mask) or not torch.equal(
        first.response_ids, other.response_ids
    )


@pytest.mark.parametrize("rows", [1, 4, 6, 13, 1000])
def test_results_do_not_depend_on_the_rows_at_once(model, rows):
    whole, parts = generate(model), generate(model, rows=rows)
    for name in ("prompt_ids", "prompt_mask", "response_ids", "response_mask", "truncated"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
    torch.testing.assert_close(whole.logprobs, parts.logprobs, atol=1e-5, rtol=0)


def test_no_more_rows_at_once_than_allowed(model, monkeypatch):
    seen = []
    forward = model.forward

    def counted(*args, **options):
        seen.append(tuple(options["input_ids"].shape))
        return forward(*args, **options)

    monkeypatch.setattr(model, "forward", counted)
    engine = TransformersEngine(model, PAD, EOS, rows=4)
    engine.generate(PROMPTS, Sampling(samples=6, max_tokens=5), torch.Generator())
    assert max(rows for rows, _ in seen) == 4


def test_prompts_run_once_and_ended_rows_leave(model, monkeypatch):
    shapes, logits = [], []
    forward = model.forward

    def counted(*args, **options):
        output = forward(*args, **options)
        shapes.append(tuple(options["input_ids"].shape))
        logits.append(tuple(output.logits.shape))
        return output

    monkeypatch.setattr(model, "forward", counted)
    engine = TransformersEngine(model, PAD, EOS)
    engine._options = {"logits_to_keep": 1}  # the signature above hides it
    engine.generate(PROMPTS, Sampling(samples=6, max_tokens=12), torch.Generator().manual_seed(0))
    assert shapes[0] == (5, 7)
    assert logits[0] == (5, 1, VOCABULARY)
    assert {width for _, width in shapes[1:]} == {1}
    rows = [count for count, _ in shapes[1:]]
    assert rows[0] <= 30
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < rows[0]


def test_responses_longer_than_the_cache_s_room(model):
    rollouts = generate(model, Sampling(samples=2, max_tokens=80), eos=[1])
    assert rollouts.response_mask.sum(1).max() > 40
    expected = recomputed(model, rollouts)
    torch.testing.assert_close(rollouts.logprobs, expected, atol=1e-4, rtol=0)


def test_without_an_end_every_response_is_cut(model):
    rollouts = generate(model, Sampling(samples=2, max_tokens=3), eos=[])
    assert rollouts.truncated.all()
    assert rollouts.response_mask.all()
    assert rollouts.response_mask.shape == (10, 3)


def test_an_end_at_the_first_and_at_the_last_place(model):
    everything = list(range(VOCABULARY))
    rollouts = generate(model, Sampling(samples=2, max_tokens=5), eos=everything)
    assert rollouts.response_ids.shape == (10, 1)
    assert rollouts.response_mask.all()
    assert not rollouts.truncated.any()
    last = generate(model, Sampling(samples=2, max_tokens=1), eos=everything)
    assert not last.truncated.any()


def test_training_mode_and_gradient_checkpointing_do_no_harm(model):
    torch.manual_seed(0)
    trained = Qwen2ForCausalLM(Qwen2Config(**SHAPE, attention_dropout=0.5))
    trained.load_state_dict(model.state_dict())
    trained.gradient_checkpointing_enable()
    trained.train()
    assert torch.equal(generate(trained).response_ids, generate(model).response_ids)
    assert trained.training
    rollouts = generate(trained)
    assert not rollouts.logprobs.requires_grad
    # Plain tensors, which a loss may use.
    weight = torch.ones((), requires_grad=True)
    (rollouts.logprobs * weight).sum().backward()
    assert weight.grad is not None


def test_half_precision_records_single(model):
    half = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    rollouts = generate(half.eval())
    assert rollouts.logprobs.dtype == torch.float32
    # bfloat16 passes differ by rounding; the recorded ones must still be the model's.
    gaps = (rollouts.logprobs - recomputed(half, rollouts)).abs()
    assert gaps[rollouts.response_mask].median() < 0.05


@pytest.mark.parametrize(
    ("prompts", "limit", "named"),
    [
        ([], 4, "0 prompts"),
        ([[1], []], 4, "2 prompts, of which 1 are empty"),
        ([[1] * 100], 29, "a prompt of 100 tokens and a response of 29 exceed the model's 128"),
    ],
)
def test_prompts_that_cannot_be_sampled(model, prompts, limit, named):
    with pytest.raises(ValueError, match=named):
        generate(model, Sampling(samples=1, max_tokens=limit), prompts=prompts)


def test_a_prompt_that_just_fits(model):
    rollouts = generate(model, Sampling(samples=1, max_tokens=28), prompts=[[5] * 100])
    assert rollouts.prompt_ids.shape == (1, 100)


def test_diverged_weights_are_reported_and_leave_their_mark(model, caplog):
    broken = Qwen2ForCausalLM(Qwen2Config(**SHAPE))
    with torch.no_grad():
        broken.lm_head.weight[3] = float("nan")
    rollouts = generate(broken)
    assert "30 of 30 responses: the model's logits are not finite" in caplog.text
    assert rollouts.logprobs[:, 0].isnan().all()
    assert rollouts.response_ids.max() < VOCABULARY


def test_recurrent_states_are_refused():
    cache = DynamicCache()
    cache.layers.append(LinearAttentionLayer())
    with pytest.raises(NotImplementedError, match="layer 0 keeps a LinearAttentionLayer"):
        repeat(cache, 2)


def test_rows_must_be_positive(model):
    with pytest.raises(ValueError, match="rows is 0"):
        TransformersEngine(model, PAD, EOS, rows=0)
