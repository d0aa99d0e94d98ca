"""Scores of checkpoints: sample, judge, aggregate, and write one json and one parquet each.

lighteval's task, model, metric and aggregation classes are used as its `Pipeline` uses them. The
pipeline itself is not: it imports every built-in task, one of which downloads a file at import.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lighteval.logging.info_loggers import MetricsLogger
from lighteval.metrics import apply_metric
from lighteval.tasks.lighteval_task import LightevalTask
from lighteval.tasks.requests import Doc

from aent.config import Setting
from aent.evaluation.model import RolloutModel, SampledResponse
from aent.evaluation.tasks import SampledCorrectness, make_task
from aent.models import encode_prompt, eos_ids, load_model, load_tokenizer
from aent.problems.record import read_problems
from aent.rewards import Verifier
from aent.rollout.transformers import TransformersEngine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A model to score, and whose it is."""

    setting: str
    method: str
    seed: int | None
    """None for the base model."""
    step: int
    path: Path


def evaluate_checkpoints(
    checkpoints: list[Checkpoint],
    setting: Setting,
    problems: dict[str, Path],
    output: Callable[[int], Path],
) -> list[Path]:
    """Score checkpoints one after the other.

    Args:
        checkpoints: what to score.
        setting: prompt, evaluation and trainer options.
        problems: benchmark -> its problems, for all benchmarks and validation sets.
        output: step -> path of the json to write; the details go beside it as parquet.

    Returns:
        The written json files.
    """
    torch.set_num_threads(setting.trainer.threads)
    written = []
    with Verifier(workers=setting.trainer.threads) as verifier:
        metric = SampledCorrectness(verifier, setting.evaluation.samples)
        tasks = {
            name: make_task(name, read_problems(path), metric) for name, path in problems.items()
        }
        for number, checkpoint in enumerate(checkpoints, 1):
            start = time.perf_counter()
            model = open_model(checkpoint.path, setting)
            scores, details = score(model, tasks, metric, setting)
            seconds = time.perf_counter() - start
            path = output(checkpoint.step)
            write(path, checkpoint, scores, details, seconds)
            written.append(path)
            log.info(
                "checkpoint %d of %d, %s/%s seed %s step %d: %s, %.1fs",
                number,
                len(checkpoints),
                checkpoint.setting,
                checkpoint.method,
                checkpoint.seed,
                checkpoint.step,
                ", ".join(f"{name} {values['average']:.3f}" for name, values in scores.items()),
                seconds,
            )
    return written


def open_model(path: Path, setting: Setting) -> RolloutModel:
    """A checkpoint as a lighteval model."""
    device = setting.trainer.device
    dtype = getattr(torch, setting.trainer.dtype)
    model = load_model(path, dtype=dtype).to(device).eval()
    tokenizer = load_tokenizer(path)
    engine = TransformersEngine(
        model, tokenizer.pad_token_id, eos_ids(model, tokenizer), setting.evaluation.rows
    )
    return RolloutModel(
        engine,
        tokenizer,
        lambda problem: encode_prompt(tokenizer, problem, setting.prompt),
        setting.evaluation,
        model.config.max_position_embeddings,
        device,
    )


def score(
    model: RolloutModel,
    tasks: dict[str, LightevalTask],
    metric: SampledCorrectness,
    setting: Setting,
) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """Sample and judge one model on all tasks.

    Returns:
        Benchmark -> score, standard errors and counts; and a row a sample.
    """
    logger = MetricsLogger()
    rows: list[dict[str, Any]] = []
    counts: dict[str, dict[str, Any]] = {}
    for name, task in tasks.items():
        docs = task.get_docs()
        responses = model.greedy_until(docs)
        outputs = apply_metric(responses=responses, docs=docs, metrics=list(task.metrics))
        for values in outputs:
            logger.log(name, values)
        samples = [
            row
            for doc, response in zip(docs, responses, strict=True)
            for row in _samples(name, doc, response, metric)
        ]
        rows += samples
        validation = name in setting.evaluation.validation
        counts[name] = {
            "split": "validation" if validation else "test",
            "problems": len(docs),
            "samples": setting.evaluation.samples,
            "unparsed": sum(row["extracted"] is None for row in samples),
            "truncated_fraction": sum(row["truncated"] for row in samples) / len(samples),
            "length_mean": sum(row["tokens"] for row in samples) / len(samples),
        }
    logger.aggregate(task_dict=tasks)
    names = ("average", "average_stderr", "pass", "pass_stderr")
    scores = {
        benchmark: {
            name: float(logger.metric_aggregated[benchmark].get(name, 0.0)) for name in names
        }
        | count
        for benchmark, count in counts.items()
    }
    return scores, pd.DataFrame(rows)


def _samples(
    benchmark: str, doc: Doc, response: SampledResponse, metric: SampledCorrectness
) -> list[dict[str, Any]]:
    """A row a sample of one problem."""
    verdicts = metric.verdicts[doc.task_name, doc.id]
    return [
        {
            "benchmark": benchmark,
            "problem_id": doc.specific["problem_id"],
            "sample": number,
            "prompt": doc.query,
            "completion": text,
            "answer": doc.get_golds()[0],
            "extracted": verdict.extracted if verdict.parsed else None,
            "correct": bool(verdict.score) and not cut,
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
    scores: dict[str, dict[str, Any]],
    details: pd.DataFrame,
    seconds: float,
) -> None:
    """Write a checkpoint's details and then its scores, each all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "setting": checkpoint.setting,
        "method": checkpoint.method,
        "seed": checkpoint.seed,
        "step": checkpoint.step,
        "model": str(checkpoint.path),
        "seconds": round(seconds, 3),
        "benchmarks": scores,
    }
    partial = path.with_name(f".{path.name}.partial")
    # A completion may hold half a surrogate pair, which parquet's text cannot.
    text = ["prompt", "completion", "answer", "extracted"]
    details[text] = details[text].map(
        lambda value: value.encode(errors="replace").decode() if isinstance(value, str) else value
    )
    details.to_parquet(partial, index=False)
    os.replace(partial, path.with_suffix(".parquet"))
    partial.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(partial, path)
