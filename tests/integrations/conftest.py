"""A tiny model, its tokenizer and a reward, wired into TRL's trainers."""

import copy
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("trl", reason="the integration needs TRL: pip install .[trl]")

PROMPTS = ["w2 w3", "w4", "w5 w6 w7", "w8 w9", "w10", "w11 w12", "w13 w14 w15", "w16"]


def make_tokenizer():
    """Words w2 to w60 beside the padding and end tokens: the vocabulary of `tiny_qwen`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, 61)}
    core = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<eos>"
    )


class Wiring(NamedTuple):
    """Builds trainers that differ in nothing but class and options."""

    model: Any
    folder: Any

    tokenizer = staticmethod(make_tokenizer)

    def reward(self, completion_ids, **_):
        """Share of even tokens: every completion gets its own value."""
        return [sum(i % 2 == 0 for i in ids) / len(ids) + 0.01 * len(ids) for ids in completion_ids]

    def options(self, **changes):
        return {
            "output_dir": str(self.folder / "output"),
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "max_steps": 4,
            "num_generations": 2,
            "per_device_train_batch_size": 8,
            "max_completion_length": 6,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": [],
            "disable_tqdm": True,
            "seed": 3,
        } | changes

    def trainer(self, trainer, config, *, processing_class=None, callbacks=None, **changes):
        from datasets import Dataset

        return trainer(
            model=copy.deepcopy(self.model),
            reward_funcs=self.reward,
            args=config(**self.options(**changes)),
            train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
            processing_class=processing_class or make_tokenizer(),
            callbacks=callbacks,
        )

    def aent(self, **changes):
        from aent.integrations.trl import AEntGRPOConfig, AEntGRPOTrainer

        return self.trainer(AEntGRPOTrainer, AEntGRPOConfig, **changes)

    def grpo(self, **changes):
        from trl import GRPOConfig, GRPOTrainer

        return self.trainer(GRPOTrainer, GRPOConfig, **changes)


def history(trainer, name):
    """Logged values of a metric, in order."""
    return [row[name] for row in trainer.state.log_history if name in row]


@pytest.fixture
def wiring(tiny_qwen, tmp_path):
    torch.set_num_threads(1)
    return Wiring(tiny_qwen, tmp_path)


@pytest.fixture(name="history")
def _history():
    return history
