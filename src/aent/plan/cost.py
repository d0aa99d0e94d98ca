"""Work of a run: tokens, floating-point operations, GPU hours, disk space, evaluation samples."""

from __future__ import annotations

from dataclasses import dataclass

from aent.config import Run
from aent.config.engine import Engine
from aent.config.model import Shape
from aent.config.plan import Assumptions, Gpu
from aent.plan.memory import FLOAT, MOMENTS
from aent.plan.shape import layer_parameters, parameters, transformer_parameters

SECONDS_AN_HOUR = 3600
KEPT_STATES = 2  # a run keeps its last two states while it trains


@dataclass(frozen=True)
class Tokens:
    """Of one step, all processes together."""

    prompts: float
    """Of prompts, each counted once a sample, as training reads them."""
    responses: float
    limit: int
    """Prompts and responses, were all as long as they may be."""

    @property
    def mean(self) -> float:
        """As many as are assumed."""
        return self.prompts + self.responses


@dataclass(frozen=True)
class Hours:
    """GPU hours of a whole run."""

    update: float
    sampling: float
    evaluation: float

    @property
    def total(self) -> float:
        """All three."""
        return self.update + self.sampling + self.evaluation


def tokens_a_step(run: Run, assumed: Assumptions) -> Tokens:
    """Tokens that one step collects and trains on."""
    trainer, rollout = run.setting.trainer, run.setting.rollout
    rows = trainer.prompts * trainer.samples
    return Tokens(
        prompts=rows * min(assumed.prompt_tokens, rollout.max_prompt_tokens),
        responses=rows * assumed.response_share * rollout.max_response_tokens,
        limit=rows * (rollout.max_prompt_tokens + rollout.max_response_tokens),
    )


def update_flops(run: Run, shape: Shape, tokens: Tokens) -> float:
    """Operations of a step's forward and backward passes.

    A product costs 2 operations a weight and token, its backward pass twice as much; gradient
    checkpointing computes the forward pass again. The head is computed again in any case. Attention
    looks at half of the sequence on average.
    """
    trainer = run.setting.trainer
    passes = 4 if trainer.gradient_checkpointing else 3
    length = tokens.mean / (trainer.prompts * trainer.samples)
    weights = shape.layers * layer_parameters(shape)
    attention = shape.layers * 2 * shape.attention_width * length
    transformer = tokens.mean * (2 * weights + attention)
    head = tokens.responses * 2 * shape.vocabulary * shape.hidden
    policy = passes * transformer + 4 * head
    critic = passes * transformer if run.method.critic else 0
    values = transformer if run.method.critic else 0  # once, at collection
    return trainer.epochs * (policy + critic) + values


def sampling_rate(engine: Engine, shape: Shape, gpu: Gpu, assumed: Assumptions) -> float:
    """Response tokens that an engine samples in a second on one GPU."""
    rate = gpu.sampling_utilisation * gpu.peak_tflops * 1e12 / (2 * parameters(shape))
    return rate / (assumed.transformers_slowdown if engine.kind == "transformers" else 1)


def gpu_hours(run: Run, shape: Shape, gpu: Gpu, assumed: Assumptions, evaluated: int) -> Hours:
    """GPU hours of a run and of scoring its checkpoints.

    Args:
        run: the run.
        shape: of its base model.
        gpu: a kind of GPU.
        assumed: lengths and speeds.
        evaluated: samples of the evaluation.
    """
    tokens = tokens_a_step(run, assumed)
    setting, steps = run.setting, run.setting.trainer.steps
    rate = sampling_rate(setting.rollout.engine, shape, gpu, assumed)
    scoring = sampling_rate(setting.scoring_engine, shape, gpu, assumed)
    flops = gpu.update_utilisation * gpu.peak_tflops * 1e12
    response = assumed.response_share * setting.evaluation.max_response_tokens
    return Hours(
        update=steps * update_flops(run, shape, tokens) / flops / SECONDS_AN_HOUR,
        sampling=steps * tokens.responses / rate / SECONDS_AN_HOUR,
        evaluation=evaluated * response / scoring / SECONDS_AN_HOUR,
    )


def disk_bytes(run: Run, shape: Shape) -> tuple[int, int]:
    """Bytes of a run's checkpoints, which stay, and of its states, which go when it is complete."""
    weights = FLOAT * parameters(shape)
    critic = FLOAT * transformer_parameters(shape) if run.method.critic else 0
    state = KEPT_STATES * (1 + MOMENTS) * (weights + critic)
    return len(run.setting.trainer.checkpoint_steps) * weights, state


def evaluation_samples(run: Run, problems: int) -> int:
    """Responses that scoring a run's checkpoints takes, given the problems of all benchmarks."""
    checkpoints = len(run.setting.trainer.checkpoint_steps)
    return checkpoints * problems * run.setting.evaluation.samples
