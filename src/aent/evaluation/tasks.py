"""Benchmarks as lighteval tasks: problems in, average and pass@n with standard errors out."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from datasets import Dataset, DatasetDict  # type: ignore[import-untyped]
from lighteval.metrics.metrics_sample import SampleLevelComputation, SamplingMetric
from lighteval.metrics.utils.metric_utils import SampleLevelMetricGrouping
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.lighteval_task import LightevalTask, LightevalTaskConfig
from lighteval.tasks.requests import Doc, SamplingMethod

from aent.evaluation.model import SampledResponse
from aent.problems.record import Problem
from aent.rewards import Verdict, Verifier


class SampledCorrectness(SamplingMetric, SampleLevelComputation):
    """Average and pass@n of a problem's samples, judged by the verifier that rewards training.

    lighteval's own answer extraction fails on many of the benchmarks' right answers, and a cut
    response must not score in a test when it earns nothing in training.
    """

    def __init__(self, verifier: Verifier, samples: int):
        """Judge `samples` responses a problem with the verifier."""
        super().__init__()
        self.verifier, self.n = verifier, samples
        self.verdicts: dict[tuple[str, str], list[Verdict]] = {}

    def num_samples(self) -> int:
        """Responses that lighteval asks the model for."""
        return self.n

    def prepare(self, responses: list[SampledResponse], docs: list[Doc]) -> None:
        """Judge a whole benchmark at once, by all of the verifier's workers.

        lighteval asks for one problem at a time; the verifier then knows the answer already.
        """
        texts = [text for response in responses for text in response.text]
        self.verifier.score(texts, [doc.get_golds()[0] for doc in docs for _ in range(self.n)])

    def compute(self, doc: Doc, model_response: ModelResponse, **_: Any) -> dict[str, float]:
        """Score one problem: mean correctness, and whether any sample is right."""
        response = cast(SampledResponse, model_response)
        verdicts = self.verifier.score(response.text, doc.get_golds() * self.n)
        self.verdicts[doc.task_name, doc.id] = verdicts
        scores = [
            verdict.score * (not cut)
            for verdict, cut in zip(verdicts, response.truncated, strict=True)
        ]
        return {"average": float(np.mean(scores)), "pass": float(max(scores))}


def make_task(name: str, problems: list[Problem], metric: SampledCorrectness) -> LightevalTask:
    """A lighteval task over problems in memory.

    Args:
        name: the benchmark's name.
        problems: its problems.
        metric: scores the samples.
    """
    config = LightevalTaskConfig(
        name=name,
        prompt_function=_to_doc,
        hf_repo="memory",  # never loaded: the data are set below
        hf_subset="default",
        hf_avail_splits=["test"],
        evaluation_splits=["test"],
        few_shots_split="test",  # lighteval warns without one, though no examples are shown
        stop_sequence=[],
        metrics=[
            SampleLevelMetricGrouping(
                metric_name=["average", "pass"],
                higher_is_better={"average": True, "pass": True},  # type: ignore[dict-item]
                category=SamplingMethod.GENERATIVE,
                sample_level_fn=metric,
                corpus_level_fn={"average": np.mean, "pass": np.mean},
            )
        ],
    )
    task = LightevalTask(config)
    rows = [{"id": p.id, "problem": p.problem, "answer": p.answer} for p in problems]
    task.dataset = DatasetDict({"test": Dataset.from_list(rows)})
    return task


def documents(task: LightevalTask) -> list[Doc]:
    """The task's problems in the order of their file.

    lighteval shuffles its list in place at each call, so that a second call gives another order.
    """
    return sorted(task.get_docs(), key=lambda doc: int(doc.id))


def _to_doc(row: dict[str, Any], task: str) -> Doc:
    return Doc(
        query=row["problem"],
        choices=[row["answer"]],
        gold_index=0,
        task_name=task,
        specific={"problem_id": row["id"]},
    )
