"""The engine: log-probabilities against a full forward pass, and what must not change samples."""

import pytest
import torch

from aent.forward import response_hidden
from aent.rollout.engine import Sampling
from aent.rollout.transformers import TransformersEngine

PROMPTS = [[5, 9, 11], [7, 8], [12, 13, 14, 15, 16, 17], [20]]


def _engine(model, eos=(1, 3, 10), rows=4096):
    return TransformersEngine(model, 0, list(eos), rows)


def _generate(engine, seed=0, **sampling):
    sampling = Sampling(**({"samples": 6, "max_tokens": 12} | sampling))
    return engine.generate(PROMPTS, sampling, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_agree_with_the_training_forward(tiny_qwen, temperature):
    rollouts = _generate(_engine(tiny_qwen), temperature=temperature, top_k=40, top_p=0.98)
    lengths = rollouts.response_mask.sum(1)
    assert lengths.min() < lengths.max() == 12  # rows have left the batch at different times
    with torch.no_grad():
        hidden = response_hidden(tiny_qwen.get_decoder(), rollouts)
        logp = (tiny_qwen.lm_head(hidden) / temperature).log_softmax(-1)
    targets = rollouts.response_ids[rollouts.response_mask]
    expected = logp.gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(
        rollouts.logprobs[rollouts.response_mask], expected, atol=1e-4, rtol=0
    )
    assert (rollouts.logprobs[~rollouts.response_mask] == 0).all()


def test_rows_end_with_the_end_token_or_are_truncated(tiny_qwen):
    rollouts = _generate(_engine(tiny_qwen))
    eos = torch.tensor([1, 3, 10])
    for ids, mask, cut in zip(
        rollouts.response_ids, rollouts.response_mask, rollouts.truncated, strict=True
    ):
        response = ids[mask]
        assert torch.isin(response[-1], eos) != cut
        assert not torch.isin(response[:-1], eos).any()
        assert len(response) == 12 or not cut
    assert 0 < rollouts.truncated.sum() < len(rollouts.truncated)


def test_prompts_are_padded_left_and_repeated(tiny_qwen):
    rollouts = _generate(_engine(tiny_qwen))
    assert rollouts.prompt_ids.shape == (24, 6)
    for row in range(24):
        prompt = rollouts.prompt_ids[row][rollouts.prompt_mask[row]].tolist()
        assert prompt == PROMPTS[row // 6]


def test_the_same_generator_gives_the_same_bits(tiny_qwen):
    first, second = _generate(_engine(tiny_qwen)), _generate(_engine(tiny_qwen))
    assert torch.equal(first.response_ids, second.response_ids)
    assert torch.equal(first.logprobs, second.logprobs)
    assert not torch.equal(first.response_ids, _generate(_engine(tiny_qwen), 1).response_ids)


@pytest.mark.parametrize("rows", [6, 13, 24])
def test_the_number_of_rows_at_once_changes_nothing(tiny_qwen, rows):
    whole, parts = _generate(_engine(tiny_qwen)), _generate(_engine(tiny_qwen, rows=rows))
    assert torch.equal(whole.response_ids, parts.response_ids)
    assert torch.equal(whole.response_mask, parts.response_mask)
    torch.testing.assert_close(whole.logprobs, parts.logprobs, atol=1e-5, rtol=0)


def test_top_one_is_greedy(tiny_qwen):
    rollouts = _generate(_engine(tiny_qwen), top_k=1, samples=1)
    for row, prompt in enumerate(PROMPTS):
        ids = list(prompt)
        for token in rollouts.response_ids[row][rollouts.response_mask[row]].tolist():
            with torch.no_grad():
                assert token == tiny_qwen(torch.tensor([ids])).logits[0, -1].argmax()
            ids.append(token)


def test_without_end_tokens_all_responses_are_full(tiny_qwen):
    rollouts = _generate(_engine(tiny_qwen, eos=()))
    assert rollouts.response_mask.all()
    assert rollouts.truncated.all()


@pytest.mark.parametrize(
    ("prompts", "tokens", "message"),
    [
        ([], 4, "0 prompts"),
        ([[5], []], 4, "1 are empty"),
        ([[5] * 60], 5, "60 tokens and a response of 5 exceed the model's 64"),
    ],
)
def test_impossible_requests(tiny_qwen, prompts, tokens, message):
    sampling = Sampling(samples=2, max_tokens=tokens)
    with pytest.raises(ValueError, match=message):
        _engine(tiny_qwen).generate(prompts, sampling, torch.Generator())
