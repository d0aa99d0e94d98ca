"""MLflow's store, opened with care: calls are tried several times, and repeats add nothing.

MLflow cannot delete a logged point. Where it holds a point that the files do not have, such as
those of steps that an interrupted run repeats, the run is replaced by a new one of the same name
(MLflow keeps the old one among its deleted runs), so that the history equals the files.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from aent.config import Run
from aent.files import sync
from aent.provenance import git_revision

log = logging.getLogger(__name__)

ATTEMPTS = 5  # tries of a call before it is given up; waits double from WAIT_S
WAIT_S = 0.2
METRICS_A_BATCH, PARAMS_A_BATCH, LONGEST_VALUE = 1000, 100, 6000  # MLflow's limits
SCORES = "score/"  # metrics that evaluation adds to a training run
ADVICE = "(raised as a result of Query-invoked autoflush"  # SQLAlchemy's, before the reason

T = TypeVar("T")


def run_tags(run: Run, directory: Path) -> dict[str, str]:
    """What identifies a run in MLflow."""
    return {
        "setting": run.setting_name,
        "method": run.method_name,
        "seed": str(run.seed),
        "config_hash": run.hash,
        "folder": str(directory.resolve()),
    }


def parameters(run: Run) -> dict[str, str]:
    """The resolved configuration, flat: `setting.trainer.steps`, `method.entropy.space.kind`."""

    def flat(prefix: str, value: Any) -> Iterable[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from flat(f"{prefix}.{key}", inner)
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield prefix, text[:LONGEST_VALUE]

    data = run.model_dump(mode="json")
    return {
        key: text for part in ("setting", "method", "seed") for key, text in flat(part, data[part])
    }


def database(uri: str) -> Path | None:
    """The file of a SQLite store; None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:") else None


def is_there(path: Path) -> bool:
    """Whether a file is a SQLite store; an empty one is what opening a deleted store leaves."""
    return path.is_file() and path.stat().st_size > 0


class StoreError(RuntimeError):
    """The store does not answer; the message names it and says why."""


class ForeignPointsError(RuntimeError):
    """An MLflow run holds points that the files do not have; MLflow can delete none of them."""


class Store:
    """An MLflow store, every call of which is tried several times."""

    def __init__(self, uri: str, artifacts: Path | None = None, create: bool = False):
        """Open the store.

        Args:
            uri: MLflow tracking URI.
            artifacts: where new experiments of a store on this machine keep artifacts.
            create: create a SQLite store that does not exist.

        Raises:
            FileNotFoundError: there is no such SQLite store.
            mlflow.exceptions.MlflowException: it cannot be opened, as when it is locked.
        """
        self.database = database(uri)
        # Patience is this class's matter, and so is what is said of a failure.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
        if self.database is not None:
            # A connection that is kept open would go on writing into a file that was deleted.
            os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
            if create and not is_there(self.database):
                _create(self.database)
            self._look()
            # Seconds at low priority, in which the file may go: MLflow would make a new one.
            importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
            self._look()
        from mlflow.tracking import MlflowClient  # takes two seconds: not before it is needed

        self.artifacts = artifacts
        self.client = MlflowClient(tracking_uri=uri)

    def _look(self) -> None:
        """See that the SQLite store is there: opening one that is not would make an empty file."""
        if self.database is not None and not is_there(self.database):
            raise FileNotFoundError(f"{self.database}: there is no MLflow store here")

    def _call(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """The call's result, tried again after a growing wait when the store is busy.

        Raises:
            FileNotFoundError: the SQLite store is gone.
            Exception: what the last attempt raised.
        """
        for attempt in range(ATTEMPTS - 1):
            self._look()
            try:
                return call(*arguments, **named)
            except Exception as error:  # what MLflow's many back ends raise has no common type
                log.debug("MLflow, attempt %d: %s", attempt + 1, error)
                time.sleep(WAIT_S * 2**attempt)
        self._look()
        return call(*arguments, **named)

    def check(self) -> None:
        """See that the store answers.

        Raises:
            Exception: what the last attempt raised.
        """
        self._call(self.client.search_experiments, max_results=1)

    def experiment(self, name: str) -> str:
        """Id of the experiment, created when there is none."""

        def ensure() -> str:
            found = self.client.get_experiment_by_name(name)
            if found is not None:
                if found.lifecycle_stage != "active":
                    self.client.restore_experiment(found.experiment_id)
                return str(found.experiment_id)
            folder = self._artifact_folder(name)
            # Another job may create it between the two calls; the next attempt finds it.
            return str(self.client.create_experiment(name, artifact_location=folder))

        return self._call(ensure)

    def _artifact_folder(self, name: str) -> str | None:
        if self.database is None:
            return None
        folder = self.artifacts or self.database.parent / "artifacts"
        return str((folder / name).resolve())

    def _new_run(self, experiment: str, name: str, tags: dict[str, str]) -> str:
        where = self.experiment(experiment)
        made = self._call(self.client.create_run, where, run_name=name, tags=tags)
        return str(made.info.run_id)

    def runs(self, experiment: str, name: str) -> list[Any]:
        """The experiment's active runs of this name, newest first."""
        query = f"attributes.run_name = '{name}'"
        where = [self.experiment(experiment)]
        found = self._call(self.client.search_runs, where, query)
        return sorted(found, key=lambda item: item.info.start_time, reverse=True)

    def named_run(self, experiment: str, name: str) -> str:
        """Id of the newest run of this name, created when there is none."""
        found = self.runs(experiment, name)
        return str(found[0].info.run_id) if found else self._new_run(experiment, name, {})

    def find(self, run: Run, tags: dict[str, str], known: str | None = None) -> str | None:
        """Id of the MLflow run that mirrors this run in this folder, or has the `known` id."""
        for item in self.runs(run.setting_name, f"{run.method_name}/{run.seed}"):
            same = all(item.data.tags.get(k) == tags[k] for k in ("config_hash", "folder"))
            if same or item.info.run_id == known:
                return str(item.info.run_id)
        return None

    def hold(
        self,
        run: Run,
        tags: dict[str, str],
        rows: list[dict[str, float]],
        found: str | None,
        aside: str | None = None,
    ) -> tuple[str, int]:
        """Make MLflow hold these rows, each point exactly once, in one run of this folder.

        Args:
            run: the training run; its configuration becomes MLflow's parameters.
            tags: from `run_tags`, and more.
            rows: metrics by name, with `step`.
            found: the MLflow run that should hold them; a new one is made when it is None, or
                holds points that the rows do not have.
            aside: begins the names of metrics that are not looked at.

        Returns:
            The id of the MLflow run, and the number of points that it lacked.
        """
        filled = 0
        if found is not None:
            try:
                filled = self.fill(found, rows, exact=True, aside=aside)
            except ForeignPointsError as error:
                log.info("%s is mirrored anew: %s", tags["folder"], error)
                found = None
        if found is None:
            tags = tags | {"git_revision": git_revision() or "unknown"}
            found = self._new_run(run.setting_name, f"{run.method_name}/{run.seed}", tags)
            filled = self.fill(found, rows)
        self._describe(found, run)
        self._drop(run, tags, keep=found)
        return found, filled

    def _describe(self, run_id: str, run: Run) -> None:
        """Log the parameters that the run lacks."""
        from mlflow.entities import Param

        held = self._call(self.client.get_run, run_id).data.params
        items = [Param(key, text) for key, text in parameters(run).items() if key not in held]
        for part in _parts(items, PARAMS_A_BATCH):
            self._call(self.client.log_batch, run_id, params=part)

    def _drop(self, run: Run, tags: dict[str, str], keep: str) -> None:
        """Delete (restorably) this folder's other runs of the same name."""
        for item in self.runs(run.setting_name, f"{run.method_name}/{run.seed}"):
            if item.data.tags.get("folder") == tags["folder"] and item.info.run_id != keep:
                self._call(self.client.delete_run, item.info.run_id)

    def log(self, run_id: str, points: list[Any]) -> None:
        """Log metric points in as few transactions as MLflow allows."""
        for part in _parts(points, METRICS_A_BATCH):
            self._call(self.client.log_batch, run_id, metrics=part)

    def history(self, run_id: str) -> dict[str, dict[int, list[float]]]:
        """All points of a run: metric -> step -> values, of which there should be one."""
        names = self._call(self.client.get_run, run_id).data.metrics
        held: dict[str, dict[int, list[float]]] = {name: {} for name in names}
        for name, steps in held.items():
            for point in self._call(self.client.get_metric_history, run_id, name):
                steps.setdefault(point.step, []).append(point.value)
        return held

    def fill(
        self,
        run_id: str,
        rows: list[dict[str, float]],
        exact: bool = False,
        aside: str | None = None,
    ) -> int:
        """Log the points of `rows` that the run lacks; returns how many.

        Args:
            run_id: the MLflow run.
            rows: metrics by name, with `step`.
            exact: the run must hold nothing else.
            aside: but for metrics whose names begin so.

        Raises:
            ForeignPointsError: `exact`, and it holds a point twice or one that `rows` do not have.
        """
        held, wanted = self.history(run_id), to_points(rows)
        if exact:
            values = {(point.key, point.step): point.value for point in wanted}
            for name, steps in held.items():
                if aside is not None and name.startswith(aside):
                    continue
                for step, found in steps.items():
                    value = values.get((name, step), math.nan)  # rows leave out what is no number
                    if len(found) > 1 or not _equal(found[0], value):
                        raise ForeignPointsError(f"{name} at step {step} is {found}, not {value}")
        missing = [
            point
            for point in wanted
            if not any(_equal(v, point.value) for v in held.get(point.key, {}).get(point.step, []))
        ]
        self.log(run_id, missing)
        return len(missing)

    def mark(self, run_id: str, status: str) -> None:
        """Give the run this status, if it has another: RUNNING, FINISHED or FAILED."""
        if self._call(self.client.get_run, run_id).info.status == status:
            return
        if status == "RUNNING":
            self._call(self.client.update_run, run_id, status=status)
        else:
            self._call(self.client.set_terminated, run_id, status)


def to_points(rows: Iterable[dict[str, float]]) -> list[Any]:
    """Rows as MLflow metrics, in the order of the rows; `step` and `timestamp` are their keys.

    A row's own timestamp makes its points the same ones however often they are logged, and MLflow
    keeps one of the same.
    """
    from mlflow.entities import Metric

    now = time.time()
    return [
        Metric(name, float(value), round(1000 * row.get("timestamp", now)), int(row["step"]))
        for row in rows
        for name, value in row.items()
        if name not in ("step", "timestamp") and value is not None
    ]


def reason(error: Exception) -> str:
    """The line of what MLflow says of a failure that says why: the others are SQL or advice."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith(ADVICE)]
    return lines[0] if lines else type(error).__name__


def _create(target: Path) -> None:
    """Create a SQLite store that is there as a whole or not at all.

    MLflow builds it table by table, and jobs that open it meanwhile would build it too, and fail.
    """
    from mlflow.tracking import MlflowClient

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.touch()  # MLflow would try for 100 seconds where no file can be
        MlflowClient(tracking_uri=f"sqlite:///{partial}").search_experiments()
        sync(partial)
        if not is_there(target):  # somebody may have been faster; that one is as good
            os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _equal(held: float, value: float) -> bool:
    """Whether MLflow holds the value; its SQL stores keep the largest number for infinity."""
    if math.isinf(value):
        return math.copysign(1, held) == math.copysign(1, value) and abs(held) >= sys.float_info.max
    return held == value or (math.isnan(held) and math.isnan(value))


def _parts(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
