"""Records of a run: metric rows on disk first, MLflow beside them.

The files are the truth. MLflow is a mirror that a process beside training fills (`aent.mirror`); a
store that is slow, locked or gone costs a warning and nothing else. What the mirror lacks when the
run ends is filled in from the rows, and `mirror_run` does the same for a finished run.

The Snakefile imports this module: what is slow to import (pandas, MLflow) waits until it is used.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from aent.config import Config, Run
from aent.files import naming, replacing
from aent.journal import encode, read_journal
from aent.mirror import Mirror
from aent.store import Store, StoreError, database, is_there, reason, run_tags

log = logging.getLogger(__name__)

Row = dict[str, Any]
T = TypeVar("T")
SUMMARY = "summary"  # MLflow experiment and run that hold the tables and figures


def tracking_uri(config: Config) -> str | None:
    """Where MLflow's store is: as configured, or SQLite under the results; None when disabled."""
    if not config.tracking.enabled:
        return None
    return config.tracking.uri or f"sqlite:///{config.results / 'mlflow' / 'mlflow.db'}"


class RecordError(RuntimeError):
    """The metric rows of an interrupted run are not all there; the message names the file."""


class RunRecorder:
    """The metric rows of one training run, in state/metrics.jsonl, metrics.parquet and MLflow."""

    mlflow_run_id: str | None
    """The run's id in MLflow, known once `finish` has returned; None without a mirror."""

    def __init__(
        self,
        directory: Path,
        run: Run,
        tracking_uri: str | None,
        first_step: int = 1,
    ):
        """Open the record, or go on with an interrupted one.

        Args:
            directory: the run's folder.
            run: the resolved run; its configuration becomes MLflow's parameters.
            tracking_uri: MLflow store; None for none.
            first_step: the next step; rows from there on, left by an interrupted run whose state
                was older than its rows, are dropped.

        Raises:
            RecordError: rows before `first_step` are missing or damaged.
            aent.files.StorageError: the disk is full or gone.
        """
        self.directory = directory
        self.path = metrics_path(directory)
        self.rows = [row for row in read_journal(self.path) if row["step"] < first_step]
        if [row["step"] for row in self.rows] != list(range(1, first_step)):
            raise RecordError(
                f"{self.path}: {len(self.rows)} intact rows where steps 1 to {first_step - 1} "
                "are expected"
            )
        # A new file: what a process thought dead still writes goes to the old one.
        with replacing(self.path) as partial:
            partial.write_text("".join(encode(row) for row in self.rows), encoding="utf-8")
        self.file = self.path.open("ab", buffering=0)  # a line is one write
        self.mlflow_run_id = None
        self.mirror: Mirror | None = None
        if tracking_uri is not None:
            tags = run_tags(run, directory)
            self.mirror = Mirror(tracking_uri, run, tags, self.path, resumed=bool(self.rows))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record a step: in the file when this returns, in MLflow soon.

        Raises:
            aent.files.StorageError: the disk is full or gone.
        """
        row: Row = {"step": step, "timestamp": time.time()}
        row |= {name: float(value) for name, value in metrics.items()}
        line = encode(row).encode()
        with naming(self.path):
            if self.file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.rows.append(row)

    def sync(self) -> None:
        """Make the rows so far survive a power cut; call before a state counts on them."""
        with naming(self.path):
            os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file; without `finish`, the MLflow run has failed."""
        self.file.close()
        if self.mirror is not None:
            self.mirror.abandon()

    def finish(self) -> Path:
        """Write metrics.parquet, fill what MLflow lacks, end the MLflow run.

        Returns:
            Path of metrics.parquet: a row a step, columns `step` and the metrics' names.
        """
        import pandas as pd

        self.file.close()
        target = self.directory / "metrics.parquet"
        frame = pd.DataFrame(self.rows).drop(columns="timestamp", errors="ignore")
        if not frame.empty:
            frame = frame.astype({"step": "int64"})
        with replacing(target) as partial:
            frame.to_parquet(partial, index=False)
        if self.mirror is not None:
            self.mlflow_run_id = self.mirror.finish(len(self.rows))
        return target


def metrics_path(directory: Path) -> Path:
    """Where a run in progress keeps its metric rows."""
    return directory / "state" / "metrics.jsonl"


def create_store(uri: str, artifacts: Path, experiments: list[str] | None = None) -> None:
    """Create MLflow's store and the named experiments, once, before parallel jobs open it.

    Args:
        uri: MLflow tracking URI.
        artifacts: folder for the artifacts of a store on this machine; a server keeps its own.
        experiments: experiments to create; existing ones are left alone.

    Raises:
        mlflow.exceptions.MlflowException: the store cannot be opened.
    """
    store = Store(uri, artifacts=artifacts, create=True)
    for name in experiments or []:
        store.experiment(name)


def ensure_store(uri: str, artifacts: Path) -> None:
    """Create a SQLite store where there is none; a failure costs a warning.

    Args:
        uri: MLflow tracking URI.
        artifacts: folder for the artifacts of a store on this machine.
    """
    path = database(uri)
    if path is not None and not is_there(path):
        _try(lambda: create_store(uri, artifacts), "a store", uri)


def log_scores(uri: str, run_id: str | None, score: dict[str, Any]) -> int | None:
    """Mirror one checkpoint's scores to its run, at the checkpoint's step; repeats add nothing.

    Args:
        uri: MLflow tracking URI.
        run_id: the training run in MLflow; None logs to a run `base` of the setting's experiment.
        score: content of a step-*.json.

    Returns:
        The number of points that MLflow lacked; None when it still does, and a warning was logged.
    """

    def write() -> int:
        store = Store(uri)
        target = run_id or store.named_run(score["setting"], score["method"])
        filled = store.fill(target, [{"step": score["step"]} | score_metrics(score)])
        if run_id is None:
            store.mark(target, "FINISHED")
        return filled

    return _try(write, f"the scores of {score['setting']}/{score['method']}", uri)


def score_metrics(score: dict[str, Any]) -> dict[str, float]:
    """Metric names and values of a step-*.json; `score/average` is the mean over test sets."""
    metrics: Row = {}
    for name, values in score["benchmarks"].items():
        metrics |= {
            f"score/{name}/avg": values["average"],
            f"score/{name}/avg_stderr": values["average_stderr"],
            f"score/{name}/pass": values["pass"],
            f"score/{name}/pass_stderr": values["pass_stderr"],
        }
    tests = [v["average"] for v in score["benchmarks"].values() if v["split"] == "test"]
    if tests:
        metrics["score/average"] = sum(tests) / len(tests)
    return {name: float(value) for name, value in metrics.items() if value is not None}


def mirror_run(uri: str, directory: Path) -> int | None:
    """Make MLflow hold a finished run and its scores, each point exactly once.

    Only what is missing is logged. An MLflow run with points that the files lack, such as those of
    an earlier training in the same folder, is replaced by a new one.

    Args:
        uri: MLflow tracking URI.
        directory: the run's folder, with run.json, metrics.parquet and scores/.

    Returns:
        The number of points that MLflow lacked; None when it still does, and a warning was logged.
    """
    import pandas as pd

    def write() -> int:
        info = json.loads((directory / "run.json").read_text())
        run = Run.model_validate(info["run"])
        frame = pd.read_parquet(directory / "metrics.parquet")
        rows: list[Row] = [
            {str(name): value for name, value in row.items() if not pd.isna(value)}
            for row in frame.to_dict("records")
        ]
        for path in sorted((directory / "scores").glob("step-*.json")):
            score = json.loads(path.read_text())
            rows.append({"step": score["step"]} | score_metrics(score))
        store, tags = Store(uri), run_tags(run, directory)
        found = store.find(run, tags, info.get("mlflow_run_id"))
        run_id, filled = store.hold(run, tags, rows, found)
        store.mark(run_id, "FINISHED")
        return filled

    return _try(write, str(directory), uri)


def log_artifacts(uri: str, files: dict[Path, str]) -> bool:
    """Put files, each into a folder, on the run `summary`, replacing earlier ones.

    Args:
        uri: MLflow tracking URI.
        files: path -> folder among the artifacts.

    Returns:
        Whether MLflow now holds them; what failed was logged as a warning.
    """

    def write() -> bool:
        store = Store(uri)
        run_id = store.named_run(SUMMARY, SUMMARY)
        for path, folder in files.items():
            store.client.log_artifact(run_id, str(path), folder)
        store.mark(run_id, "FINISHED")
        return True

    return _try(write, "tables and figures", uri) is not None


def sync(config: Config) -> dict[str, int | None]:
    """Fill what MLflow lacks of the finished runs and base models; again adds nothing.

    Returns:
        Folder or file -> the number of points that were missing, None where they still are. Runs
        that are not finished are left out.

    Raises:
        aent.store.StoreError: the store does not answer; nothing was filled in.
    """
    uri = tracking_uri(config)
    if uri is None:
        return {}
    try:
        Store(uri, artifacts=config.results / "mlflow" / "artifacts", create=True).check()
    except Exception as error:  # what MLflow's many back ends raise has no common type
        raise StoreError(f"MLflow ({uri}) does not answer: {reason(error)}") from error
    done: dict[str, int | None] = {}
    for run in config.runs():
        folder = config.results / run.name
        if (folder / "run.json").exists() and (folder / "metrics.parquet").exists():
            done[str(folder)] = mirror_run(uri, folder)
    for setting in config.settings:
        path = config.results / setting / "base" / "scores" / "step-0.json"
        if path.exists():
            done[str(path)] = log_scores(uri, None, json.loads(path.read_text()))
    return done


def _try(write: Callable[[], T], what: str, uri: str) -> T | None:
    try:
        return write()
    except Exception as error:  # the mirror never fails what it mirrors; the caller is told
        log.warning("MLflow (%s) lacks %s: %s", uri, what, reason(error))
        return None
