"""MLflow as a mirror: a store opened with care, and a thread that fills it during a run.

MLflow cannot delete a logged point. A run that was interrupted after its last saved state has
points of steps that will be repeated; it is therefore replaced by a new run of the same name
(MLflow keeps the old one among its deleted runs), so that the history equals the files.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from aent.config import Run

log = logging.getLogger(__name__)

FLUSH_S = 2.0  # steps that finish within this time go to MLflow together
FINISH_S = 30.0  # longest wait for the mirror when a run ends
ATTEMPTS = 5  # tries of a write before it is given up; waits double from WAIT_S
WAIT_S = 0.2
METRICS_A_BATCH, PARAMS_A_BATCH, LONGEST_VALUE = 1000, 100, 6000  # MLflow's limits

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


class ForeignPointsError(RuntimeError):
    """An MLflow run holds points that the files do not have; MLflow can delete none of them."""


class Store:
    """An MLflow store, every write of which is tried several times."""

    def __init__(self, uri: str, artifacts: Path | None = None, create: bool = False):
        """Open the store.

        Args:
            uri: MLflow tracking URI.
            artifacts: where new experiments of a store on this machine keep artifacts.
            create: create a SQLite store that does not exist; never in parallel jobs, which
                would race in its schema migration.

        Raises:
            FileNotFoundError: there is no such SQLite store.
        """
        self.database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:") else None
        if self.database is not None:
            if create:
                self.database.parent.mkdir(parents=True, exist_ok=True)
            elif not self.database.is_file():
                raise FileNotFoundError(f"{self.database}: there is no MLflow store here")
        # A server that is gone must not hold a job for the minutes of MLflow's own patience.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        from mlflow.tracking import MlflowClient  # takes two seconds: not before it is needed

        self.artifacts = artifacts
        self.client = MlflowClient(tracking_uri=uri)

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

        return _patiently(ensure)

    def _artifact_folder(self, name: str) -> str | None:
        if self.database is None:
            return None
        folder = self.artifacts or self.database.parent / "artifacts"
        return str((folder / name).resolve())

    def create(self, run: Run, tags: dict[str, str]) -> str:
        """Create the MLflow run of a training run, with parameters and tags; returns its id."""
        from mlflow.entities import Param

        from aent.provenance import git_revision  # imports torch, which a reader of scores lacks

        tags = tags | {"git_revision": git_revision() or "unknown"}
        run_id = self._new_run(run.setting_name, f"{run.method_name}/{run.seed}", tags)
        items = [Param(key, text) for key, text in parameters(run).items()]
        for part in _parts(items, PARAMS_A_BATCH):
            _patiently(self.client.log_batch, run_id, params=part)
        return run_id

    def _new_run(self, experiment: str, name: str, tags: dict[str, str]) -> str:
        where = self.experiment(experiment)
        made = _patiently(self.client.create_run, where, run_name=name, tags=tags)
        return str(made.info.run_id)

    def runs(self, experiment: str, name: str) -> list[Any]:
        """The experiment's active runs of this name, newest first."""
        query = f"attributes.run_name = '{name}'"
        where = [self.experiment(experiment)]
        found = _patiently(self.client.search_runs, where, query)
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

    def drop(self, run: Run, tags: dict[str, str], keep: str | None) -> None:
        """Delete (restorably) this folder's earlier runs of the same name, except `keep`."""
        for item in self.runs(run.setting_name, f"{run.method_name}/{run.seed}"):
            if item.data.tags.get("folder") == tags["folder"] and item.info.run_id != keep:
                _patiently(self.client.delete_run, item.info.run_id)

    def log(self, run_id: str, points: list[Any]) -> None:
        """Log metric points in as few transactions as MLflow allows."""
        for part in _parts(points, METRICS_A_BATCH):
            _patiently(self.client.log_batch, run_id, metrics=part)

    def history(self, run_id: str) -> dict[str, dict[int, list[float]]]:
        """All points of a run: metric -> step -> values, of which there should be one."""
        names = _patiently(self.client.get_run, run_id).data.metrics
        held: dict[str, dict[int, list[float]]] = {name: {} for name in names}
        for name, steps in held.items():
            for point in _patiently(self.client.get_metric_history, run_id, name):
                steps.setdefault(point.step, []).append(point.value)
        return held

    def fill(self, run_id: str, rows: list[dict[str, float]], exact: bool = False) -> int:
        """Log the points of `rows` that the run lacks; returns how many.

        Args:
            run_id: the MLflow run.
            rows: metrics by name, with `step`.
            exact: the run must hold nothing else.

        Raises:
            ForeignPointsError: `exact`, and it holds a point twice or one that `rows` do not have.
        """
        held, wanted = self.history(run_id), to_points(rows)
        if exact:
            values = {(point.key, point.step): point.value for point in wanted}
            for name, steps in held.items():
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

    def end(self, run_id: str, status: str = "FINISHED") -> None:
        """Mark the run as ended, if it is not."""
        if _patiently(self.client.get_run, run_id).info.status != status:
            _patiently(self.client.set_terminated, run_id, status)


class Mirror:
    """A thread that brings a run's rows to MLflow; no failure leaves it."""

    def __init__(self, uri: str, run: Run, tags: dict[str, str], rows: list[dict[str, float]]):
        """Start the thread.

        Args:
            uri: MLflow tracking URI.
            run: the resolved run.
            tags: from `run_tags`, and more.
            rows: the rows so far; shared with the recorder, which appends to them.
        """
        self.uri, self.run, self.tags, self.rows = uri, run, tags, rows
        self.done = len(rows)
        self.run_id: str | None = None
        self.warned = False
        # Rows to log, then how the run ended.
        self.queue: queue.SimpleQueue[dict[str, float] | str] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self.thread.start()
        atexit.register(self._abandon)

    def put(self, row: dict[str, float]) -> None:
        """Hand over a row; returns at once."""
        self.queue.put({"timestamp": time.time()} | row)

    def finish(self) -> str | None:
        """Fill the gaps, end the MLflow run and return its id; None when MLflow has none."""
        atexit.unregister(self._abandon)
        self.queue.put("FINISHED")
        self.thread.join(FINISH_S)
        if self.thread.is_alive():
            self._warn(f"no answer within {FINISH_S:.0f} s")
        return self.run_id

    def _abandon(self) -> None:
        """The process ends without `finish`: say so in MLflow, if that goes quickly."""
        self.queue.put("FAILED")
        self.thread.join(5.0)

    def _work(self) -> None:
        try:
            store = Store(self.uri)
            self.run_id = self._open(store)
        except Exception as error:
            self._warn(error)
            return
        status = ""
        while not status:
            rows, status = self._next()
            try:
                if status == "FINISHED":
                    # The parquet file has these very rows; whatever failed before comes now.
                    store.log(self.run_id, to_points(rows))
                    store.fill(self.run_id, self.rows)
                else:
                    store.log(self.run_id, to_points(rows))
                if status:
                    store.end(self.run_id, status)
            except Exception as error:
                self._warn(error)

    def _open(self, store: Store) -> str:
        """The interrupted run's MLflow run, or a new one in place of what the folder had."""
        run_id = store.find(self.run, self.tags) if self.done else None
        if run_id is not None:
            last = self.rows[self.done - 1]["step"]
            steps = [step for points in store.history(run_id).values() for step in points]
            if max(steps, default=0) > last:
                run_id = None
        store.drop(self.run, self.tags, keep=run_id)
        if run_id is None:
            run_id = store.create(self.run, self.tags)
            store.log(run_id, to_points(self.rows[: self.done]))
        else:
            _patiently(store.client.update_run, run_id, status="RUNNING")
        return run_id

    def _next(self) -> tuple[list[dict[str, float]], str]:
        """Wait for a row, then for its neighbours; returns them and how the run ended, if so."""
        rows: list[dict[str, float]] = []
        item = self.queue.get()
        until = time.monotonic() + FLUSH_S
        while True:
            if isinstance(item, str):
                return rows, item
            rows.append(item)
            try:
                item = self.queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return rows, ""

    def _warn(self, error: object) -> None:
        if not self.warned:
            log.warning("MLflow (%s) lacks %s: %s", self.uri, self.run.name, error)
        self.warned = True


def to_points(rows: Iterable[dict[str, float]]) -> list[Any]:
    """Rows as MLflow metrics, in the order of the rows; `step` and `timestamp` are their keys."""
    from mlflow.entities import Metric

    now = time.time()
    return [
        Metric(name, float(value), round(1000 * row.get("timestamp", now)), int(row["step"]))
        for row in rows
        for name, value in row.items()
        if name not in ("step", "timestamp") and value is not None
    ]


def _equal(held: float, value: float) -> bool:
    return held == value or (math.isnan(held) and math.isnan(value))


def _parts(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _patiently(call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """The call's result, tried again after a growing wait when the store is busy.

    Raises:
        Exception: what the last attempt raised.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return call(*arguments, **named)
        except Exception as error:  # MLflow wraps what its many back ends raise in no common type
            log.debug("MLflow, attempt %d: %s", attempt + 1, error)
            time.sleep(WAIT_S * 2**attempt)
    return call(*arguments, **named)
