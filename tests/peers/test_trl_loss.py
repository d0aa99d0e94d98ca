"""Our surrogate loss and its gradient against TRL's GRPO loss on the same batch."""

import copy

import pytest
import torch

from aent.advantages import Estimate
from aent.config.method import Method
from aent.config.setting import Trainer
from aent.experience import Experience
from aent.update import TokenMeans, Updater

trl = pytest.importorskip("trl", reason="the peer test needs TRL: pip install .[trl]")


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, 61)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<eos>"
    )


def _trl_loss(model, rollouts, advantages, folder, clip_low, clip_high):
    """TRL's token-mean clipped loss, by its own trainer."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        output_dir=str(folder),
        loss_type="bnpo",
        beta=0.0,
        epsilon=clip_low,
        epsilon_high=clip_high,
        temperature=1.0,
        num_generations=2,
        per_device_train_batch_size=4,
        max_completion_length=5,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["w2 w3"] * 4}),
        processing_class=_tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": rollouts.prompt_ids,
            "prompt_mask": rollouts.prompt_mask.long(),
            "completion_ids": rollouts.response_ids,
            "completion_mask": rollouts.response_mask.long(),
            "advantages": advantages,
            "old_per_token_logps": rollouts.logprobs,
        },
    )


@pytest.mark.parametrize("clip_high", [0.2, 0.28])
def test_loss_and_gradient_match_trl(tiny_qwen, ragged_rollouts, tmp_path, clip_high):
    advantages = torch.tensor([1.2, -0.7, 0.4, -1.5])
    theirs = copy.deepcopy(tiny_qwen)
    their_loss = _trl_loss(theirs, ragged_rollouts, advantages, tmp_path, 0.2, clip_high)
    their_loss.backward()

    method = Method.model_validate(
        {"advantage": "grpo", "surrogate": {"kind": "ppo_clip", "clip_high": clip_high}}
    )
    trainer = Trainer(prompts=2, samples=2, minibatches=1)
    updater = Updater(tiny_qwen, method, trainer, temperature=1.0)
    mask = ragged_rollouts.response_mask
    experience = Experience(
        prompted=[],
        rollouts=ragged_rollouts,
        completions=[],
        verdicts=[],
        rewards=torch.zeros(2, 2),
        estimate=Estimate(advantages[:, None] * mask),
        values=None,
        rollout_s=0.0,
        reward_s=0.0,
    )
    rows = torch.arange(4)
    loss = updater._loss(experience, rows, 0.0, True, TokenMeans()) / mask.sum()
    loss.backward()

    assert loss.item() == pytest.approx(their_loss.item(), abs=1e-5)
    for (name, ours), other in zip(tiny_qwen.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, other.grad, atol=1e-5, rtol=1e-5, msg=name)
