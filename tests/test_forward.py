"""The training forward pass against the model run on each row alone, without padding."""

import torch

from aent.forward import response_hidden, select


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
