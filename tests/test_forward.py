"""The training forward pass against the model run on each row alone, without padding."""

import shutil

import pytest
import torch

from aent.config.method import RankFraction
from aent.forward import TokenPolicy, response_hidden, select


def _alone(model, rollouts, row):
    prompt = rollouts.prompt_ids[row][rollouts.prompt_mask[row]]
    response = rollouts.response_ids[row][rollouts.response_mask[row]]
    ids = torch.cat([prompt, response])[None]
    logits = model(ids).logits[0].log_softmax(-1)
    predicting = logits[len(prompt) - 1 : -1]
    return predicting.gather(1, response[:, None]).squeeze(1)


def test_padding_changes_nothing(tiny_qwen, ragged_rollouts):
    with torch.no_grad():
        hidden = response_hidden(tiny_qwen.get_decoder(), ragged_rollouts)
        logits = tiny_qwen.lm_head(hidden).log_softmax(-1)
        targets = ragged_rollouts.response_ids[ragged_rollouts.response_mask]
        ours = logits.gather(1, targets[:, None]).squeeze(1)
        alone = torch.cat([_alone(tiny_qwen, ragged_rollouts, row) for row in range(4)])
    torch.testing.assert_close(ours, alone, atol=1e-5, rtol=0)


def test_select_trims_shared_padding(ragged_rollouts):
    part = select(ragged_rollouts, torch.tensor([1, 0]))
    assert part.prompt_ids.shape == (2, 3)
    assert part.response_ids.shape == (2, 5)
    part = select(ragged_rollouts, torch.tensor([3]))
    assert part.prompt_ids.shape == (1, 4)
    assert part.response_mask.tolist() == [[True]]
    assert torch.equal(part.prompt_ids[0], ragged_rollouts.prompt_ids[3])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_policy_has_the_same_statistics_and_gradients(
    tiny_qwen, ragged_rollouts, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    del tiny_qwen.model.layers[1:]  # one is compiled in half the time
    found = []
    for compiled in (False, True):
        policy = TokenPolicy(tiny_qwen, RankFraction(drop=0.5), 0.9, compiled)
        assert dict(policy.named_parameters()).keys() == {
            f"policy.{name}" for name, _ in tiny_qwen.named_parameters()
        }
        tiny_qwen.zero_grad()
        stats = policy(ragged_rollouts)
        (stats.logprob.sum() - 0.1 * stats.clamped_entropy.sum()).backward()
        gradients = {name: weight.grad.clone() for name, weight in tiny_qwen.named_parameters()}
        found.append((stats._asdict(), gradients))
    assert any(tmp_path.rglob("*.cpp"))  # it was compiled
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)
