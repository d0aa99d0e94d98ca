"""One of two processes: loss, gradient and coefficient of unequal halves of a batch.

Writes what this process found as JSON. Started by test_trl_processes.py, which also says which
token of which row is real.
"""

import json
import sys
from pathlib import Path

import torch
from conftest import make_tokenizer
from datasets import Dataset
from torch.nn.parallel import DistributedDataParallel
from transformers import Qwen2Config, Qwen2ForCausalLM

from aent.integrations.trl import AEntGRPOConfig, AEntGRPOTrainer

torch.set_num_threads(1)
folder = Path(sys.argv[1])

torch.manual_seed(0)
model = Qwen2ForCausalLM(Qwen2Config(**json.loads((folder / "model.json").read_text())))
rule = {"kind": "adaptive", "initial": 0.5, "low": 10.0, "high": 20.0}
trainer = AEntGRPOTrainer(
    model,
    lambda completions, **_: [0.0] * len(completions),
    AEntGRPOConfig(
        output_dir=str(folder),
        token_space={"kind": "top_k", "k": 20},
        coefficient_rule=rule | {"rate": 0.01, "min": 0.0, "max": 1.0},
        per_device_train_batch_size=2,
        num_generations=2,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
    ),
    Dataset.from_dict({"prompt": ["w2 w3"] * 4}),
    processing_class=make_tokenizer(),
)
process = trainer.accelerator.process_index
rows = slice(2 * process, 2 * process + 2)
batch = torch.load(folder / "batch.pt")
tokens = batch["completion_mask"].sum()
inputs = {name: value[rows] for name, value in batch.items()} | {"num_items_in_batch": tokens}

wrapped = trainer.accelerator.prepare(trainer.model.train())
trainer.current_gradient_accumulation_steps = 1
trainer._compute_loss(wrapped, inputs).backward()
trainer._finish_step()
torch.save(
    {
        "wrapped": isinstance(wrapped, DistributedDataParallel),
        "gradients": {name: value.grad for name, value in trainer.model.named_parameters()},
        "coefficient": trainer.controller.value,
        "metrics": {name: value[0] for name, value in trainer._metrics["train"].items()},
    },
    folder / f"found{process}.pt",
)
torch.distributed.destroy_process_group()
