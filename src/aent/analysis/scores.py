"""Scores of checkpoints and metrics of runs as data frames, and which checkpoint stands for a run.

A score row is one benchmark of one checkpoint. Three checkpoints can stand for a run: the one with
the best average test score, as in the paper; the one a validation split chooses; and the last.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from aent.config import Config, Run

BASE = "base"
SELECTIONS = {"best": "best checkpoint", "validation": "chosen on validation", "last": "last"}
"""Which checkpoint stands for a run, and what it is called in tables, figures and claims."""
RUN_KEYS = ["setting", "method", "seed"]
CHECKPOINT = ["method", "seed", "step"]
COLUMNS = {
    "setting": "str",
    "method": "str",
    "seed": "Int64",
    "step": "int64",
    "benchmark": "str",
    "split": "str",
    "average": "float64",
    "average_stderr": "float64",
    "pass": "float64",
    "pass_stderr": "float64",
    "problems": "int64",
    "samples": "int64",
}


class MissingDataError(ValueError):
    """A table, figure or claim needs numbers that are not there; the message names them."""


def collect_scores(paths: Iterable[Path | str]) -> pd.DataFrame:
    """All score files as one frame, a row a checkpoint and benchmark.

    Args:
        paths: `scores/step-*.json` files; the base model's have a null seed.

    Returns:
        The columns of `COLUMNS`, sorted; the order of `paths` does not matter.

    Raises:
        MissingDataError: a file lacks a key; the message names file and key.
    """
    rows = []
    for path in paths:
        record = json.loads(Path(path).read_text())
        try:
            head = [record[key] for key in ("setting", "method", "seed", "step")]
            for benchmark, score in record["benchmarks"].items():
                rows.append([*head, benchmark, *(score[key] for key in list(COLUMNS)[5:])])
        except KeyError as error:
            raise MissingDataError(f"{path}: no key {error}") from None
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return frame.sort_values([*RUN_KEYS, "step", "split", "benchmark"], ignore_index=True)


def read_metrics(config: Config, runs: Iterable[Run]) -> pd.DataFrame:
    """Metrics of the runs under one another.

    Returns:
        setting, method, seed, step and a column a metric, NaN where a run has none.

    Raises:
        MissingDataError: a run's steps are not 1, 2, 3, ...
    """
    frames = []
    for run in runs:
        path = config.results / run.name / "metrics.parquet"
        frame = pd.read_parquet(path)
        if frame["step"].tolist() != list(range(1, len(frame) + 1)):
            raise MissingDataError(f"{path}: steps are not 1 to {len(frame)} in order")
        frame.insert(0, "setting", run.setting_name)
        frame.insert(1, "method", run.method_name)
        frame.insert(2, "seed", run.seed)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def benchmark_scores(config: Config, setting: str, part: str, scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of a setting's checkpoints, a column a benchmark.

    Args:
        config: the configuration.
        setting: which setting.
        part: `benchmarks` (the test sets) or `validation`.
        scores: as `collect_scores` gives them.

    Returns:
        method, seed (NA for the base model), step, then the benchmarks in the setting's order.

    Raises:
        MissingDataError: a checkpoint was not scored on all of them.
    """
    names = getattr(config.settings[setting].evaluation, part)
    rows = scores[scores["setting"] == setting]
    wide = rows.pivot(index=CHECKPOINT, columns="benchmark", values="average")
    wide = wide.reindex(columns=names).reset_index()
    gaps = wide[wide[names].isna().any(axis=1)]
    if len(gaps):
        method, seed, step = gaps[CHECKPOINT].iloc[0]
        raise MissingDataError(
            f"{setting}/{method} seed {seed} step {step}: not scored on all of {names}"
        )
    return wide


def checkpoint_averages(config: Config, setting: str, scores: pd.DataFrame) -> pd.DataFrame:
    """Average test and validation score of every checkpoint of a setting.

    Returns:
        method, seed (NA for the base model), step, average (mean over the test benchmarks) and
        validation (mean over the validation sets, NaN where the setting has none).

    Raises:
        MissingDataError: as `benchmark_scores`.
    """
    test = benchmark_scores(config, setting, "benchmarks", scores)
    validation = benchmark_scores(config, setting, "validation", scores)
    means = {
        "average": test.drop(columns=CHECKPOINT).mean(axis=1),
        "validation": validation.drop(columns=CHECKPOINT).mean(axis=1).astype("float64"),
    }
    return test[CHECKPOINT].assign(**means)


def select_checkpoints(
    config: Config, setting: str, methods: list[str], seeds: list[int], scores: pd.DataFrame
) -> pd.DataFrame:
    """The steps that stand for each run; the earliest where scores tie.

    Returns:
        method, seed, selection (one of `SELECTIONS`), step, average (of the test benchmarks).
        Without validation sets the setting has no rows of that selection.

    Raises:
        MissingDataError: a run has no scores, or as `benchmark_scores`.
    """
    averages = checkpoint_averages(config, setting, scores)
    groups = dict(tuple(averages[averages["method"] != BASE].groupby(["method", "seed"])))
    rows = []
    for method in methods:
        for seed in seeds:
            if (method, seed) not in groups:
                raise MissingDataError(f"{setting}/{method}/seed{seed}: no scores")
            curve = groups[method, seed].sort_values("step").set_index("step")
            chosen = {"best": curve["average"].idxmax(), "last": curve.index[-1]}
            if curve["validation"].notna().all():
                chosen["validation"] = curve["validation"].idxmax()
            rows += [
                (method, seed, selection, chosen[selection], curve["average"][chosen[selection]])
                for selection in SELECTIONS
                if selection in chosen
            ]
    return pd.DataFrame(rows, columns=["method", "seed", "selection", "step", "average"])


def setting_title(config: Config, setting: str) -> str:
    """What a setting is called in tables, figures, claims and the report."""
    return config.settings[setting].title or setting


def title(config: Config, setting: str, method: str) -> str:
    """What a method is called in tables and figures."""
    if method == BASE:
        return "Base model"
    swept = config.swept_methods(setting).get(method)
    if swept:
        sweep = config.sweeps[swept[0]]
        base = config.method(setting, sweep.base).title or sweep.base
        return f"{base}, {sweep.key.rsplit('.', 1)[-1]} {swept[1]:g}"
    return config.method(setting, method).title or method
