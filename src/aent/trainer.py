"""The training loop: collect, reward, advantages, minibatch updates, coefficient, record.

Differs from the textbook in three ways. Everything random in a step (which prompts, which tokens)
is a function of the run's seed and the step's number, so an interrupted run goes on bit for bit
from its last state. What a resumed run needs lives in `state/`, outside the declared outputs that
Snakemake deletes after a failure; checkpoints are published when the run is complete. Entropies of
the full vocabulary and of the clamped space are recorded in every run, whatever the loss uses.

By hand, after `snakemake results/models/tiny results/problems/train.jsonl`:

    aent train --config config/config.yaml --setting laptop --method aent --seed 0
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from aent.checkpoint import load_state, save_state
from aent.config import Run
from aent.critic import ValueModel
from aent.entropy.coefficients import make_coefficient
from aent.experience import Experience, Prompted, collect
from aent.forward import changed_logits
from aent.models import encode_prompt, eos_ids, load_model, load_tokenizer, save_model
from aent.problems.record import read_problems
from aent.progress import Progress
from aent.provenance import describe_run, digest
from aent.rewards import Verifier
from aent.rollout.engine import Sampling
from aent.rollout.transformers import TransformersEngine
from aent.tracking import RunRecorder
from aent.update import NonFiniteError, Updater

log = logging.getLogger(__name__)

SHOWN_PROMPTS = 4  # prompts a checkpoint whose completions are kept to read


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says where and why."""


@dataclass(frozen=True)
class Folders:
    """Where a run keeps its things: declared outputs, and the state outside them."""

    output: Path

    @property
    def state(self) -> Path:
        """What an interrupted run goes on from."""
        return self.output / "state"

    @property
    def pending_checkpoints(self) -> Path:
        """Checkpoints before the run is complete."""
        return self.state / "checkpoints"

    @property
    def checkpoints(self) -> Path:
        """Published checkpoints."""
        return self.output / "checkpoints"


class Session:
    """A run in progress: models, optimisers, coefficient, and the step they stand at."""

    def __init__(self, run: Run, model_dir: Path, problems: Path, output: Path):
        """Load the base model, or go on from the last state in `output`.

        Raises:
            TrainingError: too few usable prompts, or a state that belongs to another run.
            aent.models.ModelError, aent.problems.record.ProblemError: bad inputs.
        """
        self.run, self.folders = run, Folders(output)
        self.inputs = {"model": digest(model_dir), "problems": digest(problems)}
        trainer, rollout = run.setting.trainer, run.setting.rollout
        torch.set_num_threads(trainer.threads)
        torch.manual_seed(run.seed)
        self.tokenizer = load_tokenizer(model_dir)
        self.policy = load_model(model_dir)
        if reasons := changed_logits(self.policy):
            raise TrainingError(f"{model_dir}: training does not support {'; '.join(reasons)}")
        torch.nn.Module.to(self.policy, trainer.device)  # transformers' own `to` loses its types
        if trainer.gradient_checkpointing:
            self.policy.gradient_checkpointing_enable()
        self.critic = ValueModel(self.policy) if run.method.critic else None
        self.updater = Updater(
            self.policy, run.method, trainer, rollout.temperature, critic=self.critic
        )
        self.coefficient = (
            make_coefficient(run.method.entropy.coefficient) if run.method.entropy else None
        )
        self.prompted, self.left_out = self._prompts(problems)
        self.sampling = Sampling(
            samples=trainer.samples,
            max_tokens=rollout.max_response_tokens,
            temperature=rollout.temperature,
        )
        self.engine = TransformersEngine(
            self.policy,
            self.tokenizer.pad_token_id,
            eos_ids(self.policy, self.tokenizer),
            rollout.rows,
        )
        self.step = self._resume()

    def _prompts(self, path: Path) -> tuple[list[Prompted], int]:
        setting = self.run.setting
        problems = read_problems(path)
        encoded = [
            Prompted(problem, encode_prompt(self.tokenizer, problem.problem, setting.prompt))
            for problem in problems
        ]
        longest = setting.rollout.max_prompt_tokens
        kept = [item for item in encoded if len(item.tokens) <= longest]
        if len(kept) < setting.trainer.prompts:
            raise TrainingError(
                f"{path}: {len(kept)} of {len(problems)} prompts have at most {longest} tokens "
                f"(rollout.max_prompt_tokens); a step needs {setting.trainer.prompts}"
            )
        if len(kept) < len(encoded):
            log.warning(
                "%d prompts longer than %d tokens left out", len(encoded) - len(kept), longest
            )
        return kept, len(encoded) - len(kept)

    def _resume(self) -> int:
        state = load_state(self.folders.state, self.run.setting.trainer.device)
        if state is None:
            return 0
        if (state["run_hash"], state["inputs"]) != (self.run.hash, self.inputs):
            log.warning(
                "%s is of another configuration, base model or problem file: starting afresh",
                self.folders.state,
            )
            shutil.rmtree(self.folders.state)
            return 0
        self.policy.load_state_dict(state["policy"])
        self.updater.optimizer.load_state_dict(state["optimizer"])
        if self.critic is not None and self.updater.critic_optimizer is not None:
            self.critic.load_state_dict(state["critic"])
            self.updater.critic_optimizer.load_state_dict(state["critic_optimizer"])
        if self.coefficient is not None:
            self.coefficient.load_state_dict(state["coefficient"])
        log.info("going on after step %d", state["step"])
        return int(state["step"])

    def save(self) -> None:
        """Write the state after the current step."""
        state: dict[str, Any] = {
            "run_hash": self.run.hash,
            "inputs": self.inputs,
            "policy": self.policy.state_dict(),
            "optimizer": self.updater.optimizer.state_dict(),
        }
        if self.critic is not None and self.updater.critic_optimizer is not None:
            state["critic"] = self.critic.state_dict()
            state["critic_optimizer"] = self.updater.critic_optimizer.state_dict()
        if self.coefficient is not None:
            state["coefficient"] = self.coefficient.state_dict()
        save_state(self.folders.state, self.step, state)

    def take_step(self, verifier: Verifier) -> tuple[dict[str, float], Experience]:
        """One global step; returns its metrics and what was collected.

        Raises:
            TrainingError: the loss or gradient is not finite; the update was not applied.
        """
        start = time.perf_counter()
        step = self.step + 1
        generator = torch.Generator(self.policy.device).manual_seed(
            _seed(self.run.seed, step, "sampling")
        )
        self.policy.eval()
        experience = collect(
            self.engine,
            self.tokenizer,
            verifier,
            self.run.method,
            prompts_of_step(self.prompted, self.run.setting.trainer.prompts, step, self.run.seed),
            self.sampling,
            generator,
            self.critic,
        )
        collected = time.perf_counter()
        coefficient = self.coefficient.value if self.coefficient else 0.0
        self.policy.train()
        try:
            metrics = self.updater.update(step, experience, coefficient)
        except NonFiniteError as error:
            ids = [item.problem.id for item in experience.prompted]
            raise TrainingError(f"{self.run.name}, step {step}: {error}; problems {ids}") from error
        if self.coefficient is not None and self.run.method.entropy is not None:
            full = self.updater.bonus_is_full
            self.coefficient.update(step, metrics["entropy/full" if full else "entropy/clamped"])
        end = time.perf_counter()
        self.step = step
        tokens = int(experience.rollouts.response_mask.sum())
        metrics |= experience.metrics() | {
            "entropy/coefficient": coefficient,
            "time/update_s": end - collected,
            "time/step_s": end - start,
            "throughput/tokens_per_s": tokens / (end - start),
        }
        return metrics, experience


def train(
    run: Run, model_dir: Path, problems: Path, output: Path, tracking_uri: str | None = None
) -> None:
    """Train one run, or finish an interrupted one, and write all its outputs.

    Args:
        run: the resolved run.
        model_dir: base model, a directory that AutoModelForCausalLM opens.
        problems: training problems in the record schema.
        output: the run's folder; gets metrics.parquet, run.json, completions.parquet and
            checkpoints/step-*.
        tracking_uri: MLflow store to mirror to; None for none.

    Raises:
        TrainingError: see `Session`.
    """
    started = time.time()
    session = Session(run, model_dir, problems, output)
    folders, trainer = session.folders, run.setting.trainer
    recorder = RunRecorder(output, run, tracking_uri, first_step=session.step + 1)
    progress = Progress(run.name, trainer.steps, session.step)
    with Verifier() as verifier:
        while session.step < trainer.steps:
            metrics, experience = session.take_step(verifier)
            recorder.log(session.step, metrics)
            progress.show(session.step, metrics)
            at_checkpoint = session.step in trainer.checkpoint_steps
            if at_checkpoint:
                folder = folders.pending_checkpoints / f"step-{session.step}"
                save_model(session.policy, session.tokenizer, folder)
            if at_checkpoint or session.step == 1:
                _keep_completions(folders, session.step, experience)
            if session.step % trainer.state_every == 0 or session.step == trainer.steps:
                session.save()
    recorder.finish()
    info = describe_run(run, started) | {
        "inputs": session.inputs,
        "parameters": sum(parameter.numel() for parameter in session.policy.parameters()),
        "prompts_left_out": session.left_out,
        "mlflow_run_id": recorder.mlflow_run_id,
    }
    _publish(folders, trainer.checkpoint_steps, info)


def prompts_of_step(prompted: list[Prompted], count: int, step: int, seed: int) -> list[Prompted]:
    """The step's prompts: a window of the endless sequence of seeded shuffles of the data."""

    def shuffled() -> Iterator[int]:
        first = (step - 1) * count
        epoch, skip = divmod(first, len(prompted))
        while True:
            generator = torch.Generator().manual_seed(_seed(seed, epoch, "order"))
            yield from torch.randperm(len(prompted), generator=generator).tolist()[skip:]
            epoch, skip = epoch + 1, 0

    indices = shuffled()
    return [prompted[next(indices)] for _ in range(count)]


def _seed(seed: int, number: int, stream: str) -> int:
    """A generator's seed for (run seed, number, stream).

    Hashed, because torch's CPU generator looks at the lowest 32 bits only.
    """
    digest = hashlib.sha256(f"{stream}/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4])


def _keep_completions(folders: Folders, step: int, experience: Experience) -> None:
    """Append a few groups of the step to the pending completions, once a step."""
    path = folders.state / "completions.jsonl"
    folders.state.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    lines = [line for line in lines if json.loads(line)["step"] < step]
    samples = len(experience.completions) // len(experience.prompted)
    rewards = experience.rewards.flatten().tolist()
    for row in range(min(SHOWN_PROMPTS, len(experience.prompted)) * samples):
        problem, verdict = experience.prompted[row // samples].problem, experience.verdicts[row]
        record = {
            "step": step,
            "problem_id": problem.id,
            "prompt": problem.problem,
            "completion": experience.completions[row],
            "answer": problem.answer,
            "extracted": verdict.extracted,
            "reward": rewards[row],
            "truncated": bool(experience.rollouts.truncated[row]),
        }
        lines.append(json.dumps(record) + "\n")
    partial = path.with_suffix(".partial")
    partial.write_text("".join(lines))
    os.replace(partial, path)


def _publish(folders: Folders, steps: list[int], info: dict[str, Any]) -> None:
    """Link what was pending to the declared outputs, then drop the state."""
    lines = (folders.state / "completions.jsonl").read_text().splitlines()
    completions = pd.DataFrame([json.loads(line) for line in lines])
    completions.to_parquet(folders.output / "completions.parquet", index=False)
    folders.checkpoints.mkdir(exist_ok=True)
    for step in steps:
        target = folders.checkpoints / f"step-{step}"
        shutil.rmtree(target, ignore_errors=True)
        # Links, not moves: killed half-way, the run can publish again.
        shutil.copytree(folders.pending_checkpoints / f"step-{step}", target, copy_function=_link)
    (folders.output / "run.json").write_text(json.dumps(info, indent=2) + "\n")
    shutil.rmtree(folders.state)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
