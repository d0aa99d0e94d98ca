"""Scores of checkpoints: sample, judge, aggregate, and write one json and one parquet each.

lighteval's task, model, metric and aggregation classes are used as its `Pipeline` uses them. The
pipeline itself is not: it imports every built-in task, one of which downloads a file at import.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from lighteval.logging.info_loggers import MetricsLogger
from lighteval.metrics import apply_metric
from lighteval.tasks.lighteval_task import LightevalTask
from lighteval.tasks.requests import Doc
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aent.config import Setting
from aent.config.engine import VllmEngine
from aent.evaluation.model import RolloutModel, SampledResponse
from aent.evaluation.tasks import SampledCorrectness, documents, make_task
from aent.files import replacing
from aent.launch import threads_each
from aent.models import encode_prompt, load_model, load_tokenizer
from aent.problems.record import read_problems
from aent.processes import Processes, open_scoring
from aent.progress import duration
from aent.provenance import digest
from aent.rewards import Verifier
from aent.rollout.engine import Engine
from aent.rollout.making import make_engine
from aent.rollout.shared import SharedEngine

log = logging.getLogger(__name__)

Scores = dict[str, dict[str, Any]]
"""Benchmark -> average, pass, their standard errors, and counts."""


@dataclass(frozen=True)
class Checkpoint:
    """A model to score, and whose it is."""

    setting: str
    method: str
    seed: int | None
    """None for the base model."""
    step: int
    path: Path
    trust_remote_code: bool = False
    """Run the Python code that comes with the model."""

    def __str__(self) -> str:
        run = self.method if self.seed is None else f"{self.method}/seed{self.seed}"
        return f"{self.setting}/{run} step {self.step}"


def evaluate_checkpoints(
    checkpoints: list[Checkpoint],
    setting: Setting,
    problems: dict[str, Path],
    output: Callable[[int], Path],
) -> list[Path]:
    """Score checkpoints one after the other; several processes sample, the first one judges.

    Args:
        checkpoints: what to score.
        setting: prompt, evaluation and trainer options.
        problems: benchmark -> its problems, for all benchmarks and validation sets.
        output: step -> path of the json to write; the details go beside it as parquet.

    Returns:
        The written json files.

    Raises:
        aent.processes.ProcessesError: another number of processes was started than configured.
    """
    threads, files = setting.trainer.threads, []
    # One process judges while the others wait, with all threads of the job; it is on one node.
    with open_scoring(setting) as processes, Verifier(workers=threads) as verifier:
        torch.set_num_threads(threads_each(threads, processes.count))
        metric = SampledCorrectness(verifier, setting.evaluation.samples)
        tasks = {
            name: make_task(name, read_problems(path), metric) for name, path in problems.items()
        }
        progress = _Progress(checkpoints, tasks)
        inputs = {name: digest(path) for name, path in problems.items()}
        opener = Opener(setting, processes)
        for checkpoint in checkpoints:
            start = time.perf_counter()
            model = opener.open(checkpoint)
            if not processes.first:
                for task in tasks.values():
                    model.greedy_until(documents(task))
                continue
            scores, details = score(model, tasks, metric, setting, progress)
            seconds = time.perf_counter() - start
            path = output(checkpoint.step)
            files.append(write(path, checkpoint, scores, details, seconds, inputs))
    return files


class _Progress:
    """Says which benchmark of which checkpoint is done, its scores and the time left."""

    def __init__(self, checkpoints: list[Checkpoint], tasks: dict[str, LightevalTask]):
        self.checkpoints, self.tasks = checkpoints, tasks
        self.sizes = {name: len(task.eval_docs()) for name, task in tasks.items()}
        self.start, self.done, self.benchmarks = time.monotonic(), 0, 0

    def __call__(self, benchmark: str, values: dict[str, Any]) -> None:
        number = self.benchmarks // len(self.tasks)
        self.benchmarks += 1
        self.done += self.sizes[benchmark]
        total = len(self.checkpoints) * sum(self.sizes.values())
        left = (time.monotonic() - self.start) * (total / self.done - 1)
        log.info(
            "checkpoint %d of %d, %s, %s: average %.3f, pass@%d %.3f, %s left",
            number + 1,
            len(self.checkpoints),
            self.checkpoints[number],
            benchmark,
            values["average"],
            values["samples"],
            values["pass"],
            duration(left),
        )


class Opener:
    """Opens checkpoints as lighteval models, one after the other; vLLM is started only once."""

    def __init__(self, setting: Setting, processes: Processes):
        """Prepare.

        Args:
            setting: prompt, evaluation and trainer options.
            processes: those that sample together.
        """
        self.setting, self.processes = setting, processes
        self.engine: Engine | None = None

    def open(self, checkpoint: Checkpoint) -> RolloutModel:
        """A checkpoint as a lighteval model.

        Raises:
            ModelError: its directory is not a model.
            ValueError: the setting's responses leave no room for a prompt.
        """
        setting, processes = self.setting, self.processes
        dtype = getattr(torch, setting.trainer.dtype)
        trust = checkpoint.trust_remote_code
        model = load_model(checkpoint.path, dtype=dtype, trust_remote_code=trust).eval()
        tokenizer = load_tokenizer(checkpoint.path, trust_remote_code=trust)
        limits = [getattr(model.config, "max_position_embeddings", None), setting.scoring_positions]
        positions = min(limit or sys.maxsize for limit in limits)
        engine = self._engine(model, tokenizer, positions, trust)
        if processes.count > 1:
            engine = SharedEngine(engine, tokenizer.pad_token_id, processes)
        return RolloutModel(
            engine,
            tokenizer,
            lambda problem: encode_prompt(tokenizer, problem, setting.prompt),
            setting.evaluation,
            positions,
            processes.device,
            checkpoint.step,
        )

    def _engine(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        trust: bool,
    ) -> Engine:
        setting, config = self.setting, self.setting.scoring_engine
        if isinstance(config, VllmEngine):  # it has weights of its own on the GPU
            if self.engine is not None:
                cast(Any, self.engine).use(model)
                return self.engine
        else:
            torch.nn.Module.to(model, self.processes.device)
        self.engine = make_engine(
            config,
            model,
            tokenizer,
            rows=setting.evaluation.rows,
            positions=positions,
            processes=self.processes,
            trust_remote_code=trust,
        )
        return self.engine


def score(
    model: RolloutModel,
    tasks: dict[str, LightevalTask],
    metric: SampledCorrectness,
    setting: Setting,
    progress: Callable[[str, dict[str, Any]], None] | None = None,
) -> tuple[Scores, pd.DataFrame]:
    """Sample and judge one model on all tasks.

    Args:
        model: what to score.
        tasks: benchmark -> task.
        metric: the tasks' metric.
        setting: tells validation sets from test sets.
        progress: called after each benchmark with its name and scores.

    Returns:
        Scores, and a row a sample.
    """
    scores, rows = {}, []
    for name, task in tasks.items():
        values, samples = _score_task(model, task, metric)
        split = "validation" if name in setting.evaluation.validation else "test"
        scores[name] = {"split": split} | values
        rows += [{"benchmark": name} | sample for sample in samples]
        if progress is not None:
            progress(name, scores[name])
    return scores, pd.DataFrame(rows)


def _score_task(
    model: RolloutModel, task: LightevalTask, metric: SampledCorrectness
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores of one task, and a row a sample."""
    docs = documents(task)
    responses = cast(list[SampledResponse], model.greedy_until(docs))
    metric.prepare(responses, docs)
    logger = MetricsLogger()
    for values in apply_metric(responses=list(responses), docs=docs, metrics=list(task.metrics)):
        logger.log(task.full_name, values)
    logger.aggregate(task_dict={task.full_name: task})
    result = logger.metric_aggregated[task.full_name]
    samples = [
        row
        for doc, response in zip(docs, responses, strict=True)
        for row in _samples(doc, response, metric)
    ]
    counts = {
        "problems": len(docs),
        "samples": metric.n,
        "unparsed": sum(row["extracted"] is None for row in samples),
        "truncated_fraction": sum(row["truncated"] for row in samples) / len(samples),
        "length_mean": sum(row["tokens"] for row in samples) / len(samples),
    }
    names = ("average", "average_stderr", "pass", "pass_stderr")
    # lighteval gives a single problem no standard error: there is none.
    return {
        name: float(result[name]) if name in result else None for name in names
    } | counts, samples


def _samples(
    doc: Doc, response: SampledResponse, metric: SampledCorrectness
) -> list[dict[str, Any]]:
    """A row a sample of one problem."""
    assert doc.specific is not None
    verdicts = metric.verdicts[doc.task_name, doc.id]
    return [
        {
            "problem_id": doc.specific["problem_id"],
            "sample": number,
            "prompt": doc.query,
            "completion": text,
            "answer": doc.get_golds()[0],
            "extracted": verdict.extracted if verdict.parsed else None,
            "correct": bool(verdict.score) and not cut,
            "timed_out": verdict.timed_out,
            "truncated": cut,
            "tokens": len(tokens),
        }
        for number, (text, tokens, cut, verdict) in enumerate(
            zip(response.text, response.output_tokens, response.truncated, verdicts, strict=True)
        )
    ]


def write(
    path: Path,
    checkpoint: Checkpoint,
    scores: Scores,
    details: pd.DataFrame,
    seconds: float,
    inputs: dict[str, str],
) -> Path:
    """Write a checkpoint's details and then its scores, each all or nothing.

    Args:
        path: of the scores.
        checkpoint: what was scored.
        scores: by benchmark.
        details: a row a sample.
        seconds: that it took.
        inputs: SHA-256 of each benchmark's file.

    Returns:
        The path of the scores.

    Raises:
        aent.files.StorageError: the disk is full or gone.
    """
    record = {
        "setting": checkpoint.setting,
        "method": checkpoint.method,
        "seed": checkpoint.seed,
        "step": checkpoint.step,
        "model": str(checkpoint.path),
        "seconds": round(seconds, 3),
        "inputs": inputs,
        "benchmarks": scores,
    }
    with replacing(path.with_suffix(".parquet")) as partial:
        details.to_parquet(partial, index=False)
    with replacing(path) as partial:
        partial.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    return path
