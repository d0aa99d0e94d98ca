"""Time of one training step, ours against TRL's GRPOTrainer, on identical work in one process.

Both sides train the laptop's base model (or one given with --model) on the same prompts, with the
same number of samples, minibatches and optimiser steps. Nobody's response may end early: the end
token is one that the model has no row for, so each response has exactly --tokens tokens on both
sides. Sampling, reward (the same verifier) and update
are included on both sides; neither uses gradient checkpointing. Times are CPU seconds of this
process, one thread; rounds alternate, and the medians' ratio is printed.

    python benchmarks/training_step.py --rounds 5
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import copy
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback

from aent.config import Config, Run, ScratchModel, load
from aent.critic import ValueModel
from aent.experience import Prompted, collect
from aent.models import build_tokenizer as build
from aent.models import create_model, encode_prompt, load_model, load_tokenizer, save_model
from aent.problems import load_problems
from aent.problems.record import Problem
from aent.rewards import Verifier
from aent.rollout.engine import Sampling
from aent.rollout.transformers import TransformersEngine
from aent.update import Updater


def our_step(
    run: Run, model: Any, tokenizer: PreTrainedTokenizerBase, problems: list[Problem], tokens: int
) -> Any:
    """A function that takes one step of our loop on the next prompts."""
    model = copy.deepcopy(model)
    trainer = run.setting.trainer
    critic = ValueModel(model) if run.method.critic else None
    updater = Updater(model, run.method, trainer, temperature=1.0, critic=critic)
    engine = TransformersEngine(model, tokenizer.pad_token_id, [], 4096)
    prompted = [
        Prompted(p, encode_prompt(tokenizer, p.problem, run.setting.prompt)) for p in problems
    ]
    sampling = Sampling(samples=trainer.samples, max_tokens=tokens)
    verifier = Verifier()
    state = {"step": 0}
    coefficient = 0.01 if run.method.entropy else 0.0

    def step() -> None:
        first = state["step"] * trainer.prompts % (len(prompted) - trainer.prompts)
        state["step"] += 1
        model.eval()
        experience = collect(
            engine,
            tokenizer,
            verifier,
            run.method,
            prompted[first : first + trainer.prompts],
            sampling,
            torch.Generator().manual_seed(state["step"]),
            updater.values if critic else None,
        )
        model.train()
        updater.update(state["step"], experience, coefficient)
        assert experience.rollouts.response_mask.all()

    return step


class StepClock(TrainerCallback):
    """CPU seconds between the starts of generation batches."""

    def __init__(self, minibatches: int):
        self.minibatches, self.marks = minibatches, []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the end of each generation batch's last minibatch."""
        if state.global_step % self.minibatches == 0:
            self.marks.append(time.process_time())


def trl_steps(
    run: Run,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    problems: list[Problem],
    tokens: int,
    steps: int,
) -> list[float]:
    """CPU seconds of each of TRL's steps; the first of `steps + 1` is dropped."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    trainer = run.setting.trainer
    verifier = Verifier()

    def reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        return [verdict.score for verdict in verifier.score(completions, answer)]

    data = Dataset.from_dict(
        {"prompt": [p.problem for p in problems], "answer": [p.answer for p in problems]}
    )
    rows = trainer.prompts * trainer.samples
    clock = StepClock(trainer.minibatches)
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            loss_type="bnpo",
            beta=0.0,
            epsilon=0.2,
            temperature=1.0,
            num_generations=trainer.samples,
            per_device_train_batch_size=rows // trainer.minibatches,
            steps_per_generation=trainer.minibatches,
            gradient_accumulation_steps=1,
            max_completion_length=tokens,
            max_steps=(steps + 1) * trainer.minibatches,
            learning_rate=trainer.learning_rate,
            adam_beta2=trainer.betas[1],
            lr_scheduler_type="constant",
            max_grad_norm=trainer.grad_clip,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        peer = GRPOTrainer(
            model=copy.deepcopy(model),
            reward_funcs=reward,
            args=config,
            train_dataset=data,
            processing_class=tokenizer,
            callbacks=[clock],
        )
        peer.train()
    return [b - a for a, b in zip(clock.marks, clock.marks[1:], strict=False)]


def unended(config: Config, name: str, folder: Path, model_dir: Path | None) -> tuple[Any, Any]:
    """The model and a tokenizer whose end token the model cannot sample: it has no row for it."""
    if model_dir is None:
        torch.manual_seed(0)
        scratch = config.models[name]
        assert isinstance(scratch, ScratchModel)
        model_dir = folder / "model"
        save_model(create_model(scratch), build(scratch.vocabulary), model_dir)
    model, tokenizer = load_model(model_dir), load_tokenizer(model_dir)
    tokenizer.add_special_tokens({"eos_token": "<never>"})
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    return model, tokenizer


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Median CPU seconds a step of each side."""
    config = load(options.config)
    setting = config.settings[options.setting]
    problems = load_problems(config.problems[setting.problems])[:2000]
    names = options.methods.split(",")
    runs = {name: config.run(options.setting, name, 0) for name in names}
    times: dict[str, list[float]] = {name: [] for name in [*names, "trl"]}
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = unended(config, setting.model, Path(folder), options.model)
        steps = {
            n: our_step(r, model, tokenizer, problems, options.tokens) for n, r in runs.items()
        }
        for step in steps.values():
            step()
        for _ in range(options.rounds):
            for name, step in steps.items():
                for _ in range(3):
                    start = time.process_time()
                    step()
                    times[name].append(time.process_time() - start)
            if not options.no_trl:
                times["trl"] += trl_steps(
                    runs[names[0]], model, tokenizer, problems, options.tokens, 2
                )
    return {name: statistics.median(seconds) for name, seconds in times.items() if seconds}


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    parser.add_argument("--setting", default="laptop")
    parser.add_argument("--methods", default="grpo,aent")
    parser.add_argument("--model", type=Path, help="default: the setting's model, fresh")
    parser.add_argument("--tokens", type=int, default=24, help="response length")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-trl", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    medians = measure(options)
    first = next(iter(medians))
    print(json.dumps({f"{name} s/step": round(value, 4) for name, value in medians.items()}))
    for name, value in medians.items():
        print(f"{name} / {first}: {value / medians[first]:.3f}")
    if "trl" in medians:
        print(f"{first} / trl: {medians[first] / medians['trl']:.3f}")


if __name__ == "__main__":
    main()
