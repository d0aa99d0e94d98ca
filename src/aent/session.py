"""A run in progress: what its next step depends on, and how that is saved and taken up again.

Everything random in a step (which prompts, which tokens) is a function of the run's seed and the
step's number, so an interrupted run goes on bit for bit from its last state. Entropies of the full
vocabulary and of the clamped space are recorded in every run, whatever the loss uses.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from aent.checkpoint import StateError, load_state, save_state
from aent.config import Run
from aent.config.engine import VllmEngine
from aent.critic import ValueModel
from aent.entropy.coefficients import make_coefficient
from aent.experience import Experience, Prompted, collect
from aent.failure import NonFiniteError, write_dump
from aent.folder import RunFolder, owner_of
from aent.forward import changed_logits
from aent.importance import Importance
from aent.launch import threads_each
from aent.models import encode_prompt, load_model, load_tokenizer, save_model
from aent.problems.record import read_problems
from aent.processes import Processes
from aent.provenance import digest
from aent.rewards import Verifier
from aent.rollout.engine import Engine, Rollouts, Sampling
from aent.rollout.making import make_engine
from aent.signals import Termination
from aent.update import Updater

log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says where and why."""


class Session:
    """A run in progress: models, optimisers, coefficient, and the step they stand at."""

    def __init__(
        self,
        run: Run,
        model_dir: Path,
        problems: Path,
        output: Path,
        processes: Processes | None = None,
        termination: Termination | None = None,
    ):
        """Load the base model, or go on from the last state in `output`.

        Args:
            run: the resolved run.
            model_dir: base model.
            problems: training problems.
            output: the run's folder.
            processes: those that train together; this one alone when absent.
            termination: says when sampling may be left.

        Raises:
            TrainingError: too few usable prompts.
            aent.checkpoint.StateError: states are damaged or missing, and none is usable.
            aent.models.ModelError, aent.problems.record.ProblemError: bad inputs.
        """
        self.run, self.folder = run, RunFolder(output)
        trainer, rollout = run.setting.trainer, run.setting.rollout
        self.processes = processes or Processes(trainer.device)
        self.termination = termination or Termination()
        self.inputs = self.processes.agreed(
            lambda: {"model": digest(model_dir), "problems": digest(problems)}
        )
        self.threads = threads_each(trainer.threads, self.processes.count, trainer.nodes)
        torch.set_num_threads(self.threads)
        torch.manual_seed(run.seed)
        self.tokenizer = load_tokenizer(model_dir, trust_remote_code=run.trust_remote_code)
        self.policy = self._load_policy(model_dir)
        self.critic = ValueModel(self.policy) if run.method.critic else None
        self.updater = Updater(
            self.policy, run.method, trainer, rollout.temperature, self.critic, self.processes
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
        self.engine = self._make_engine()
        self.share = self.processes.share(trainer.prompts, trainer.minibatches)
        self.began = time.perf_counter()
        self.step = self.saved = self._resume()

    def _load_policy(self, model_dir: Path) -> PreTrainedModel:
        model = load_model(model_dir, trust_remote_code=self.run.trust_remote_code)
        if reasons := changed_logits(model):
            raise TrainingError(f"{model_dir}: training does not support {'; '.join(reasons)}")
        # transformers' own `to` loses its types
        torch.nn.Module.to(model, self.processes.device)
        if self.run.setting.trainer.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        return model

    def _make_engine(self) -> Engine:
        rollout = self.run.setting.rollout
        return make_engine(
            rollout.engine,
            self.policy,
            self.tokenizer,
            rows=rollout.rows,
            positions=rollout.max_prompt_tokens + rollout.max_response_tokens,
            processes=self.processes,
            whole=self._sampling,
            following=True,
            trust_remote_code=self.run.trust_remote_code,
        )

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
        processes = self.processes
        # The first process has the state; the others are told what is no weight.
        state: dict[str, Any] | None = self._usable_state() if processes.first else None
        known = processes.agreed(
            lambda: state and {n: state.get(n) for n in ("step", "coefficient")}
        )
        if known is None:
            return 0
        parts = state or {}
        processes.load_module(self.policy, parts.get("policy", {}))
        processes.load_optimizer(self.updater.optimizer, parts.get("optimizer", {}))
        if self.critic is not None and self.updater.critic_optimizer is not None:
            processes.load_module(self.critic, parts.get("critic", {}))
            optimizer = self.updater.critic_optimizer
            processes.load_optimizer(optimizer, parts.get("critic_optimizer", {}))
        if self.coefficient is not None:
            self.coefficient.load_state_dict(known["coefficient"])
        log.info("going on after step %d", known["step"])
        return int(known["step"])

    def _usable_state(self) -> dict[str, Any] | None:
        trainer, ours = self.run.setting.trainer, owner_of(self.run.hash, self.inputs)
        self.folder.claim_state(ours)
        state = load_state(
            self.folder.state, lacking=lambda step: self.folder.lacking(step, trainer)
        )
        if state is not None and owner_of(state["run_hash"], state["inputs"]) != ours:
            # Nobody had signed it.
            self.folder.set_state_aside(owner_of(state["run_hash"], state["inputs"]))
            return self._usable_state()
        step = state["step"] if state else 0
        if lost := self.folder.lost_state(step, trainer.state_every):
            if state is None:
                raise StateError(
                    f"{lost}. Put it back, or move {self.folder.state} away to start the run afresh"
                )
            log.warning("%s", lost)
        self.folder.sign_state(ours, trainer.state_every)
        return state

    def save(self, guard: Callable[[], object] = lambda: None) -> None:
        """Write the state after the current step.

        Args:
            guard: see `aent.checkpoint.save_state`.

        Raises:
            aent.files.StorageError: the disk is full or gone; earlier states are unharmed.
        """
        processes = self.processes
        state: dict[str, Any] = {
            "run_hash": self.run.hash,
            "inputs": self.inputs,
            "policy": processes.module_state(self.policy),
            "optimizer": processes.optimizer_state(self.updater.optimizer),
        }
        if self.critic is not None and self.updater.critic_optimizer is not None:
            state["critic"] = processes.module_state(self.critic)
            state["critic_optimizer"] = processes.optimizer_state(self.updater.critic_optimizer)
        if self.coefficient is not None:
            state["coefficient"] = self.coefficient.state_dict()
        if processes.first:
            save_state(self.folder.state, self.step, state, guard=guard)
        self.saved = self.step

    def save_checkpoint(self, guard: Callable[[], object] = lambda: None) -> None:
        """Write the policy as it is after the current step; as `save`."""
        weights = self.processes.module_state(self.policy)
        if self.processes.first:
            folder = self.folder.pending_checkpoint(self.step)
            save_model(self.policy, self.tokenizer, folder, guard, weights)

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        """Around sampling: no process waits for another one inside."""
        with self.processes.whole(self.updater.token_policy), self.termination.leaving():
            yield

    def collect(self, verifier: Verifier) -> Experience:
        """What the next step learns from. Changes nothing, so it may be left at any point."""
        self.began = time.perf_counter()
        step = self.step + 1
        generator = torch.Generator(self.policy.device).manual_seed(
            _seed(self.run.seed, step, "sampling")
        )
        self.updater.train(False)
        prompted = prompts_of_step(self.prompted, self.share.total, step, self.run.seed)
        return collect(
            self.engine,
            self.tokenizer,
            verifier,
            self.run.method,
            [prompted[place] for place in self.share.places],
            self.sampling,
            generator,
            self.updater.values if self.critic else None,
            self._weigh(),
            self.processes,
            self.share,
        )

    def _weigh(self) -> Callable[[Rollouts], tuple[Rollouts, Importance]] | None:
        """How tokens are weighed that vLLM has sampled; None where the policy itself samples."""
        engine = self.run.setting.rollout.engine
        if not isinstance(engine, VllmEngine) or engine.importance_cap is None:
            return None
        return partial(self.updater.weigh, cap=engine.importance_cap)

    def learn(self, experience: Experience) -> dict[str, float]:
        """Finish the step with what was collected; returns its metrics.

        Raises:
            TrainingError: the loss, gradient or a weight is not finite; a dump was written.
        """
        start = time.perf_counter()
        step = self.step + 1
        coefficient = self.coefficient.value if self.coefficient else 0.0
        self.updater.train(True)
        torch.manual_seed(_seed(self.run.seed, step, "update"))  # for models with dropout
        try:
            metrics = self.updater.update(step, experience, coefficient)
        except NonFiniteError as error:
            process = f"-process{self.processes.rank}" if self.processes.count > 1 else ""
            dump = self.folder.output / "failures" / f"step-{step}{process}.json"
            ids = write_dump(dump, step, experience, coefficient, error)
            raise TrainingError(
                f"{self.run.name}, step {step}: {error}; problems {ids}; see {dump}"
            ) from error
        if self.coefficient is not None and self.run.method.entropy is not None:
            self.coefficient.update(step, metrics[self.run.method.entropy.metric])
        end = time.perf_counter()
        self.step = step
        tokens = int(self.processes.sum(experience.rollouts.response_mask.sum()))
        return (
            metrics
            | experience.metrics(self.processes)
            | {
                "entropy/coefficient": coefficient,
                "time/update_s": end - start,
                "time/step_s": end - self.began,
                "time/processes": float(self.processes.count),
                "throughput/tokens_per_s": tokens / (end - self.began),
            }
        )


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
