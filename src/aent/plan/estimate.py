"""The plan of a whole reproduction: a row a run, totals, and what will not work."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from aent.config import Config, ConfigError, Run, SyntheticProblems, describe
from aent.config.data import FileProblems
from aent.config.plan import Assumptions
from aent.config.revisions import moving
from aent.plan.cost import (
    Hours,
    Tokens,
    disk_bytes,
    evaluation_samples,
    gpu_hours,
    tokens_a_step,
)
from aent.plan.memory import Memory, estimate_memory
from aent.plan.shape import PlanError, parameters, shape_of, transformer_parameters
from aent.problems.prepare import complete
from aent.problems.record import ProblemError
from aent.problems.source import read_source

GB = 1e9


@dataclass(frozen=True)
class RunPlan:
    """What one run takes."""

    run: Run
    parameters: int
    """Trained: of the policy and, with PPO, of the critic."""
    tokens: Tokens
    memory: Memory
    hours: dict[str, Hours]
    """By kind of GPU; empty for runs on a CPU."""
    checkpoints: int
    """Bytes of disk that stay."""
    states: int
    """Bytes of disk while the run trains."""
    samples: int
    """Responses of the evaluation."""


@dataclass(frozen=True)
class Plan:
    """What a reproduction takes."""

    runs: list[RunPlan]
    assumed: Assumptions
    warnings: list[str]

    @property
    def hours(self) -> dict[str, float]:
        """GPU hours of all runs, by kind of GPU."""
        names = self.assumed.gpus if any(row.hours for row in self.runs) else {}
        return {
            name: sum(row.hours[name].total for row in self.runs if row.hours) for name in names
        }


def make_plan(config: Config) -> Plan:
    """Estimate every run of a configuration.

    Raises:
        PlanError: the shape of a model, or the size of a benchmark, is not known.
    """
    sizes: dict[str, int] = {}
    rows = []
    for run in config.runs():
        names = run.setting.evaluation.problem_sets
        for name in names:
            if name not in sizes:
                sizes[name] = problem_count(config, name)
        rows.append(plan_run(config, run, sum(sizes[name] for name in names)))
    return Plan(rows, config.plan, [*_too_large(rows, config.plan), *moving(config)])


def assume(assumed: Assumptions, changes: list[str]) -> Assumptions:
    """The assumptions with some of them changed.

    Args:
        assumed: to start from.
        changes: such as `response_share=0.5` or `gpus.A100.memory_gb=40`.

    Raises:
        ConfigError: no such key, or no such value.
    """
    data = assumed.model_dump()
    for change in changes:
        path, sign, value = change.partition("=")
        *parents, last = path.split(".")
        part = data
        for key in parents:
            part = part.setdefault(key, {})
            if not isinstance(part, dict):
                raise ConfigError(f"--assume {change}: {key} has no keys")
        if not sign:
            raise ConfigError(f"--assume {change}: KEY=VALUE is needed")
        part[last] = yaml.safe_load(value)
    try:
        return Assumptions.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe(error, "--assume")) from None


def plan_run(config: Config, run: Run, problems: int) -> RunPlan:
    """Estimate one run, given the number of problems on which its checkpoints are scored."""
    shape, assumed = shape_of(config, run.setting.model), config.plan
    samples = evaluation_samples(run, problems)
    on_gpus = run.setting.trainer.device == "cuda"
    checkpoints, states = disk_bytes(run, shape)
    smallest = min((gpu.memory_gb for gpu in assumed.gpus.values()), default=0.0)
    return RunPlan(
        run=run,
        parameters=parameters(shape) + (transformer_parameters(shape) if run.method.critic else 0),
        tokens=tokens_a_step(run, assumed),
        memory=estimate_memory(run, shape, gpu_bytes=smallest * GB),
        hours={
            name: gpu_hours(run, shape, gpu, assumed, samples) for name, gpu in assumed.gpus.items()
        }
        if on_gpus
        else {},
        checkpoints=checkpoints,
        states=states,
        samples=samples,
    )


def problem_count(config: Config, name: str) -> int:
    """Problems of a set: from its data card, its configuration, or its local file.

    Raises:
        PlanError: nobody says it.
    """
    source = config.problems[name]
    card = config.results / "problems" / f"{name}.json"
    if card.is_file():
        return _counted(card)
    if isinstance(source, SyntheticProblems):
        return source.count
    if isinstance(source, FileProblems):
        try:
            count = len(complete(read_source(source), source)[0])
        except ProblemError as error:
            raise PlanError(f"problems.{name}: {error}") from None
    elif source.records is not None:
        count = source.records
    else:
        raise PlanError(
            f"problems.{name}: the number of records of {source.id} is not known here; give it "
            "under `records`, or prepare the problems first"
        )
    return min(count, source.limit or count)


def _counted(card: Path) -> int:
    return int(json.loads(card.read_text())["steps"][-1]["left"])


def _too_large(rows: list[RunPlan], assumed: Assumptions) -> list[str]:
    """A sentence for all runs that need the same memory, and more than some GPUs have."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        need = row.memory.peak / GB + assumed.workspace_gb
        small = [name for name, gpu in assumed.gpus.items() if need > gpu.memory_gb]
        if not row.hours or not small:
            continue
        moments = row.memory.moments
        moment = max(moments, key=moments.__getitem__)
        text = (
            f"about {need:.0f} GB a GPU do not fit into "
            f"{' or '.join(f'{name} ({assumed.gpus[name].memory_gb:g} GB)' for name in small)}: "
            f"weights, gradients and optimiser take {row.memory.resident / GB:.0f} GB, and the "
            f"largest moment ({moment}) {moments[moment] / GB:.0f} GB. {_remedy(row, moment)}"
        )
        found.setdefault(text, {})[f"{row.run.setting_name}/{row.run.method_name}"] = None
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]


def _remedy(row: RunPlan, moment: str) -> str:
    first = {
        "sampling": "Lower rollout.engine.memory_fraction"
        if row.run.setting.rollout.engine.kind == "vllm"
        else "Lower rollout.rows",
        "backward pass": "Lower trainer.micro_batch_tokens, or set gradient_checkpointing",
        "optimiser": "Lower the model's share of a GPU",
    }[moment]
    several = row.run.setting.trainer.gpus > 1
    return f"{first}{'; strategy: fsdp2 shares out the state' if several else ''}."
