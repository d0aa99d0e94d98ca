"""A setting: model, data, trainer, rollout and evaluation that the methods share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from aent.config.base import MOST, Fraction, Name, Seed, Strict, Text, Unique
from aent.config.engine import Engine, TransformersEngine, VllmEngine
from aent.config.method import RankFraction, Space


class Prompt(Strict):
    """How a problem becomes a prompt."""

    suffix: str = ""
    """Text put behind the problem."""
    chat: bool = False
    """Wrap the text as one user turn with the tokenizer's chat template."""


class Rollout(Strict):
    """Sampling of responses during training."""

    engine: Engine = TransformersEngine()
    """The engine that samples: transformers or vllm."""
    temperature: float = Field(default=1.0, gt=0)
    """Applied to the logits of sampling, log-probabilities and entropies alike."""
    max_prompt_tokens: int = Field(default=64, ge=1)
    """Problems with longer prompts are left out and counted; where vLLM evaluates, a longer prompt
    keeps its last tokens."""
    max_response_tokens: int = Field(default=32, ge=1)
    """Longer responses are cut and earn 0."""
    rows: int = Field(default=4096, ge=1)
    """Sequences sampled at once in a process."""


class Trainer(Strict):
    """The training loop."""

    steps: int = Field(default=80, ge=1, le=1_000_000)
    """Global steps: collect, then update."""
    prompts: int = Field(default=32, ge=1)
    """Prompts a step."""
    samples: int = Field(default=8, ge=2)
    """Responses a prompt: the group."""
    minibatches: int = Field(default=2, ge=1)
    """Optimiser steps a global step and epoch; must divide the prompts."""
    epochs: int = Field(default=1, ge=1)
    """Passes over a step's responses."""
    micro_batch_tokens: int | None = Field(default=None, ge=1)
    """Padded tokens in one forward pass; a whole minibatch when absent."""
    learning_rate: float = Field(default=3e-4, gt=0)
    """AdamW learning rate, constant."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    """AdamW betas."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW weight decay."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    measured_space: Space = RankFraction(drop=0.33)
    """Space of `entropy/clamped` in runs whose loss uses none or the full vocabulary."""
    save_every: int = Field(default=20, ge=1)
    """Steps between checkpoints that are evaluated; the last step always is."""
    state_every: int = Field(default=10, ge=1)
    """Steps between saves of the state that an interrupted run goes on from."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward pass; weights and optimiser stay in float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    compile: bool = False
    """Put the transformer of the update through `torch.compile`; sampling stays as it is."""
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    """With several processes: ddp has all weights in each; fsdp2 shares out weights, gradients and
    optimiser state."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of a run or an evaluation job on each of its nodes, shared by its processes."""
    memory_mb: int = Field(default=2000, ge=500)
    """Memory of a run on each of its nodes, for the scheduler; a second attempt gets half more."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of a run, all nodes together; each is driven by a process of its own."""
    nodes: int = Field(default=1, ge=1)
    """Nodes of a cluster that a run's GPUs are on, as many on each; must divide `gpus`."""
    runtime_minutes: int = Field(default=60, ge=1)
    """Longest runtime of a run, for the scheduler."""

    @model_validator(mode="after")
    def _divides(self) -> Trainer:
        if (count := -(-self.steps // self.save_every)) > MOST:
            raise ValueError(
                f"save_every {self.save_every} makes {count} checkpoints in {self.steps} steps; "
                f"at most {MOST} are allowed"
            )
        if self.prompts % self.minibatches:
            raise ValueError(
                f"minibatches {self.minibatches} does not divide prompts {self.prompts}"
            )
        if (self.device == "cuda") != (self.gpus > 0):
            raise ValueError(f"device {self.device} does not go with gpus {self.gpus}")
        if self.processes % self.nodes:
            raise ValueError(f"nodes {self.nodes} does not divide gpus {self.gpus}")
        self.check_divides(self.processes)
        return self

    def check_divides(self, processes: int) -> None:
        """See that as many prompts of each minibatch can go to each of some processes.

        Raises:
            ValueError: they cannot.
        """
        if self.prompts % (self.minibatches * processes):
            raise ValueError(
                f"{processes} processes (gpus) times minibatches {self.minibatches} do not divide "
                f"prompts {self.prompts}; each process takes as many prompts of each minibatch"
            )

    @property
    def processes(self) -> int:
        """Processes that train one run together."""
        return max(1, self.gpus)

    @property
    def checkpoint_steps(self) -> list[int]:
        """Steps after which a checkpoint is saved and evaluated."""
        return sorted({*range(self.save_every, self.steps + 1, self.save_every), self.steps})


class Evaluation(Strict):
    """Evaluation of checkpoints."""

    benchmarks: Annotated[list[Name], Unique] = Field(min_length=1, max_length=MOST)
    """Problem sets of the test score; their mean is the average test score."""
    validation: Annotated[list[Name], Unique] = Field(default=[], max_length=MOST)
    """Problem sets that choose a checkpoint without looking at the test sets."""
    samples: int = Field(default=4, ge=1)
    """Samples a problem."""
    temperature: float = Field(default=0.6, gt=0)
    """Sampling temperature."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus of the sampling."""
    top_k: int | None = Field(default=20, ge=1)
    """Most likely tokens that sampling may choose from; all when null."""
    max_response_tokens: int = Field(default=32, ge=1)
    """Longest response."""
    rows: int = Field(default=4096, ge=1)
    """Sequences sampled at once in a process."""
    seed: Seed = 0
    """Seed of the sampling."""
    checkpoints_per_job: int | None = Field(default=None, ge=1)
    """Checkpoints that one job evaluates; all of a run when absent."""
    engine: Engine | None = None
    """The engine that samples; the rollout's when absent."""
    gpus: int | None = Field(default=None, ge=0)
    """GPUs of a job, each driven by a process of its own; when absent one if training uses any,
    else none."""
    memory_mb: int | None = Field(default=None, ge=500)
    """Memory of a job, for the scheduler; the trainer's when absent."""
    runtime_minutes: int | None = Field(default=None, ge=1)
    """Longest runtime of a job, for the scheduler; the trainer's when absent."""

    @property
    def problem_sets(self) -> list[str]:
        """Problem sets that a checkpoint is scored on: benchmarks, then validation."""
        return [*self.benchmarks, *self.validation]

    @model_validator(mode="after")
    def _tested_or_validated(self) -> Evaluation:
        if both := sorted(set(self.benchmarks) & set(self.validation)):
            raise ValueError(
                f"{both} stand in benchmarks and in validation; one of them is allowed"
            )
        return self


class Setting(Strict):
    """Everything the methods have in common in one experiment."""

    title: Text | None = None
    """Name in tables and figures; the setting's own name when absent."""
    model: Name
    """Base model."""
    problems: Name
    """Training problems."""
    prompt: Prompt = Prompt()
    """How a problem becomes a prompt."""
    rollout: Rollout = Rollout()
    """Sampling during training."""
    trainer: Trainer = Trainer()
    """The training loop."""
    evaluation: Evaluation
    """How checkpoints are scored."""
    methods: dict[Name, dict[str, Any]] = {}
    """Changes to methods that hold in this setting only, as partial methods."""

    @property
    def scoring_engine(self) -> Engine:
        """The engine of evaluation."""
        return self.evaluation.engine or self.rollout.engine

    @property
    def scoring_positions(self) -> int | None:
        """Longest prompt and response that vLLM is made for; None: the model alone has a limit."""
        if isinstance(self.scoring_engine, VllmEngine):
            return self.rollout.max_prompt_tokens + self.evaluation.max_response_tokens
        return None

    @property
    def scoring_gpus(self) -> int:
        """GPUs of an evaluation job."""
        given = self.evaluation.gpus
        return min(1, self.trainer.gpus) if given is None else given

    @property
    def scoring_processes(self) -> int:
        """Processes of an evaluation job, with a GPU each where there are any."""
        return max(1, self.scoring_gpus)

    @model_validator(mode="after")
    def _engines_fit(self) -> Setting:
        uses = [
            ("rollout.engine", self.rollout.engine, self.trainer.processes),
            ("evaluation.engine", self.scoring_engine, self.scoring_processes),
        ]
        for key, engine, processes in uses:
            if not isinstance(engine, VllmEngine):
                continue
            if self.trainer.device != "cuda":
                raise ValueError(f"{key} vllm needs trainer.device cuda; use transformers on cpu")
            if processes % engine.tensor_parallel:
                raise ValueError(
                    f"{key}.tensor_parallel {engine.tensor_parallel} does not divide the "
                    f"{processes} processes (gpus)"
                )
        if isinstance(self.scoring_engine, VllmEngine) and self.scoring_engine.mode == "server":
            raise ValueError(
                "evaluation.engine: a server holds the weights that are being trained; "
                "use vllm in mode colocate, or transformers"
            )
        return self
