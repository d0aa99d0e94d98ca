"""The recorder and its MLflow mirror, on real SQLite stores."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy
import sqlalchemy.orm
from mlflow.entities import ViewType
from mlflow.store.tracking.dbmodels.models import SqlTag
from mlflow.tracking import MlflowClient

from aent.config import parse
from aent.store import Store, parameters, reason, run_tags
from aent.tracking import (
    RecordError,
    RunRecorder,
    create_store,
    ensure_store,
    log_artifacts,
    log_scores,
    mirror_run,
    sync,
    tracking_uri,
)

CONFIG = {
    "problems": {"train": {"kind": "synthetic"}},
    "models": {"tiny": {"kind": "scratch", "warm_start": {"problems": "train"}}},
    "settings": {
        "toy": {"model": "tiny", "problems": "train", "evaluation": {"benchmarks": ["train"]}}
    },
    "methods": {
        "grpo": {"advantage": "grpo", "surrogate": "ppo_clip"},
        "rloo": {"advantage": "rloo", "surrogate": "ppo_clip"},
    },
}
RUN = parse(CONFIG).run("toy", "grpo", 0)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine must not decide what MLflow has."""
    monkeypatch.setattr("aent.mirror.NICENESS", 0)
    for name in ("FINISH_S", "HURRY_S", "ABANDON_S"):
        monkeypatch.setattr(f"aent.mirror.{name}", 300.0)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A migrated SQLite store; migrating takes seconds, so tests copy it."""
    folder = tmp_path_factory.mktemp("store")
    create_store(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")
    return folder / "mlflow.db"


@pytest.fixture
def uri(empty_store, tmp_path):
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").write_bytes(empty_store.read_bytes())
    return f"sqlite:///{tmp_path}/mlflow/mlflow.db"


def metrics(step: int, shift: float = 0.0) -> dict[str, float]:
    return {"reward/mean": step / 7 + shift, "entropy/full": 1 / step, "time/step_s": shift}


def record(directory: Path, uri: str | None, steps: range, shift: float = 0.0) -> RunRecorder:
    recorder = RunRecorder(directory, RUN, uri, first_step=steps.start)
    for step in steps:
        recorder.log(step, metrics(step, shift))
    return recorder


def interrupt(recorder: RunRecorder, uri: str) -> str:
    """End a recorder as an error does, after MLflow has its rows; returns the MLflow run's id."""
    mirror, last = recorder.mirror, recorder.rows[-1]["step"]
    until = time.monotonic() + 250
    while mirror.run_id is None or (last, 1 / last) not in history(uri, mirror.run_id).get(
        "entropy/full", []
    ):
        assert time.monotonic() < until
        time.sleep(0.05)
    recorder.close()
    return mirror.run_id


def history(uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """All points as MLflow has them, repeats included."""
    client = MlflowClient(uri)
    return {
        name: sorted((p.step, p.value) for p in client.get_metric_history(run_id, name))
        for name in client.get_run(run_id).data.metrics
    }


def in_parquet(path: Path) -> dict[str, list[tuple[int, float]]]:
    frame = pd.read_parquet(path)
    columns = frame.columns.drop("step")
    return {n: list(zip(frame["step"], frame[n], strict=True)) for n in columns}


def test_history_equals_the_parquet_file(tmp_path, uri):
    recorder = record(tmp_path / "run", uri, range(1, 41))
    path = recorder.finish()
    assert pd.read_parquet(path)["step"].tolist() == list(range(1, 41))
    assert history(uri, recorder.mlflow_run_id) == in_parquet(path)
    made = MlflowClient(uri).get_run(recorder.mlflow_run_id)
    assert made.info.status == "FINISHED"
    assert made.info.run_name == "grpo/0"
    assert made.data.tags["config_hash"] == RUN.hash
    assert made.data.tags.keys() >= {"method", "seed", "git_revision", "setting"}
    assert made.data.params == parameters(RUN)
    assert made.data.params["setting.trainer.learning_rate"] == "0.0003"
    assert MlflowClient(uri).get_experiment(made.info.experiment_id).name == "toy"


def test_not_a_number_reaches_both(tmp_path, uri):
    recorder = RunRecorder(tmp_path / "run", RUN, uri)
    recorder.log(1, {"loss/value": math.nan})
    path = recorder.finish()
    assert math.isnan(pd.read_parquet(path)["loss/value"][0])
    [(_, value)] = history(uri, recorder.mlflow_run_id)["loss/value"]
    assert math.isnan(value)


def test_resumed_run_keeps_its_mlflow_run(tmp_path, uri):
    first = interrupt(record(tmp_path / "run", uri, range(1, 11)), uri)
    second = record(tmp_path / "run", uri, range(11, 16))
    path = second.finish()
    assert second.mlflow_run_id == first
    assert history(uri, second.mlflow_run_id) == in_parquet(path)
    assert len(pd.read_parquet(path)) == 15


def test_repeated_steps_are_in_neither_twice(tmp_path, uri):
    first = interrupt(record(tmp_path / "run", uri, range(1, 11)), uri)
    second = record(tmp_path / "run", uri, range(6, 12), shift=0.5)
    path = second.finish()
    frame = pd.read_parquet(path)
    assert frame["step"].tolist() == list(range(1, 12))
    assert frame["time/step_s"].tolist() == [0.0] * 5 + [0.5] * 6
    assert history(uri, second.mlflow_run_id) == in_parquet(path)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("toy").experiment_id
    assert [r.info.run_id for r in client.search_runs([experiment])] == [second.mlflow_run_id]
    deleted = client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)
    assert [r.info.run_id for r in deleted] == [first]


def test_fresh_start_replaces_the_folders_run_and_no_other(tmp_path, uri):
    other = record(tmp_path / "elsewhere", uri, range(1, 3))
    other.finish()
    record(tmp_path / "run", uri, range(1, 4)).finish()
    second = record(tmp_path / "run", uri, range(1, 3))
    path = second.finish()
    assert history(uri, second.mlflow_run_id) == in_parquet(path)
    client = MlflowClient(uri)
    active = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert {r.info.run_id for r in active} == {other.mlflow_run_id, second.mlflow_run_id}


def test_a_mirror_that_got_no_time_is_replaced_at_the_end(tmp_path, uri):
    """At low priority beside busy cores it may be at its imports still: none waits for that."""
    recorder = RunRecorder(tmp_path / "run", RUN, uri)
    starved = recorder.mirror._worker.process
    starved.send_signal(signal.SIGSTOP)
    for step in range(1, 4):
        recorder.log(step, metrics(step))
    path = recorder.finish()
    assert starved.returncode == -signal.SIGKILL
    assert history(uri, recorder.mlflow_run_id) == in_parquet(path)


def test_ctrl_c_ends_the_wait_for_the_mirror(tmp_path, uri):
    """What then closes the recorder meets no error, and the mirror is gone."""
    recorder = record(tmp_path / "run", uri, range(1, 4))
    mirror = recorder.mirror._worker.process
    mirror.send_signal(signal.SIGSTOP)  # it does not answer

    def interrupt_the_wait():
        while not mirror.stdin.closed:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_the_wait).start()
    with pytest.raises(KeyboardInterrupt), closing(recorder):
        recorder.finish()
    assert mirror.returncode == -signal.SIGKILL


def test_a_mirror_that_no_kill_ends_is_left_behind(tmp_path, uri, monkeypatch, caplog):
    """Such as one that waits for a disk that does not answer."""
    monkeypatch.setattr("aent.mirror.KILLED_S", 0.2)
    recorder = record(tmp_path / "run", uri, range(1, 4))
    stuck, kill = recorder.mirror._worker.process, subprocess.Popen.kill
    stuck.send_signal(signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "kill", lambda process: None)
        path = recorder.finish()  # by another one
    [said] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert said.startswith(f"the mirror's process {stuck.pid} is still there")
    assert history(uri, recorder.mlflow_run_id) == in_parquet(path)
    kill(stuck)
    stuck.wait()


def test_parallel_processes_share_a_store(tmp_path, uri):
    script = (
        "import sys\nfrom pathlib import Path\nfrom aent.config import parse\n"
        "from aent.tracking import RunRecorder\n"
        f"run = parse({CONFIG!r}).run('toy', sys.argv[1], 0)\n"
        "recorder = RunRecorder(Path(sys.argv[2]), run, sys.argv[3])\n"
        "for step in range(1, 301):\n"
        "    recorder.log(step, {f'metric/{i}': step + i / 10 for i in range(10)})\n"
        "recorder.finish()\nprint(recorder.mlflow_run_id)\n"
    )
    methods = ["grpo", "rloo"]
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", script, method, str(tmp_path / method), uri],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for method in methods
    ]
    ids = [job.communicate()[0].strip() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    for method, run_id in zip(methods, ids, strict=True):
        assert history(uri, run_id) == in_parquet(tmp_path / method / "metrics.parquet")


def test_missing_store_costs_one_warning(tmp_path, caplog):
    gone = f"sqlite:///{tmp_path}/gone/mlflow.db"
    with caplog.at_level(logging.WARNING):
        recorder = record(tmp_path / "run", gone, range(1, 6))
        path = recorder.finish()
    assert pd.read_parquet(path)["reward/mean"].tolist() == [s / 7 for s in range(1, 6)]
    assert recorder.mlflow_run_id is None
    assert len(caplog.records) == 1
    assert "gone/mlflow.db: there is no MLflow store here" in caplog.text
    assert not (tmp_path / "gone").exists()


def test_store_lost_while_running_is_filled_later(tmp_path, uri, caplog):
    directory = tmp_path / "run"
    interrupt(record(directory, uri, range(1, 4)), uri)
    database, away = tmp_path / "mlflow/mlflow.db", tmp_path / "away.db"
    recorder = RunRecorder(directory, RUN, uri, first_step=4)
    database.rename(away)
    recorder.log(4, metrics(4))
    path = recorder.finish()
    assert "MLflow" in caplog.text
    assert len(pd.read_parquet(path)) == 4
    away.rename(database)
    (directory / "run.json").write_text(json.dumps({"run": RUN.model_dump(mode="json")}))
    assert mirror_run(uri, directory)
    [found] = Store(uri).runs("toy", "grpo/0")
    assert history(uri, found.info.run_id) == in_parquet(path)
    assert found.info.run_id == Store(uri).find(RUN, run_tags(RUN, directory))


TABLE = {
    "kind": "scores",
    "title": "t",
    "settings": ["toy"],
    "methods": ["grpo"],
    "seeds": [0],
}
SCORE = {
    "setting": "toy",
    "method": "grpo",
    "seed": 0,
    "step": 20,
    "benchmarks": {
        name: {
            "split": split,
            "average": average,
            "average_stderr": 0.01,
            "pass": 0.75,
            "pass_stderr": 0.02,
        }
        for name, split, average in [
            ("a", "test", 0.25),
            ("b", "test", 0.75),
            ("v", "validation", 1),
        ]
    },
}


def test_scores_at_their_step_once(tmp_path, uri):
    recorder = record(tmp_path / "run", uri, range(1, 21))
    recorder.finish()
    assert log_scores(uri, recorder.mlflow_run_id, SCORE) == 13
    assert log_scores(uri, recorder.mlflow_run_id, SCORE) == 0
    held = history(uri, recorder.mlflow_run_id)
    assert held["score/average"] == [(20, 0.5)]
    assert held["score/a/avg"] == [(20, 0.25)]
    assert held["score/v/avg_stderr"] == [(20, 0.01)]
    assert held["score/b/pass"] == [(20, 0.75)]
    assert held["score/b/pass_stderr"] == [(20, 0.02)]


def test_base_scores_have_a_run_of_their_own(uri):
    base = SCORE | {"method": "base", "seed": None, "step": 0}
    assert log_scores(uri, None, base) == 13
    assert log_scores(uri, None, base) == 0
    [found] = Store(uri).runs("toy", "base")
    assert history(uri, found.info.run_id)["score/average"] == [(0, 0.5)]
    assert found.info.status == "FINISHED"


def test_unreachable_store_is_reported_to_the_caller(tmp_path, caplog):
    assert log_scores(f"sqlite:///{tmp_path}/gone.db", None, SCORE) is None
    assert "gone.db: there is no MLflow store here" in caplog.text


def test_a_reason_is_neither_advice_nor_sql():
    session = sqlalchemy.orm.Session(sqlalchemy.create_engine("sqlite://"))  # it has no tables
    session.add(SqlTag(key="a", value="b", run_uuid="c"))
    with pytest.raises(sqlalchemy.exc.OperationalError) as raised:
        session.query(SqlTag).all()
    assert len(str(raised.value).splitlines()) > 2
    assert reason(raised.value) == "(sqlite3.OperationalError) no such table: tags"
    assert reason(TimeoutError()) == "TimeoutError"


def test_sync_fills_what_is_missing_and_again_nothing(tmp_path):
    """The store was locked, then deleted; what an older training left is not kept beside it."""
    config = parse(CONFIG | {"results": str(tmp_path)} | {"tables": {"t": TABLE}})
    run, uri = config.run("toy", "grpo", 0), tracking_uri(config)
    directory = tmp_path / run.name
    for shift in (0.0, 0.5):  # the second training finds no store
        recorder = RunRecorder(directory, run, None)
        for step in range(1, 6):
            recorder.log(step, metrics(step, shift))
        recorder.finish()
        (directory / "run.json").write_text(json.dumps({"run": run.model_dump(mode="json")}))
        assert sync(config) == {str(directory): 15}
        assert sync(config) == {str(directory): 0}
    [found] = Store(uri).runs("toy", "grpo/0")
    assert history(uri, found.info.run_id) == in_parquet(directory / "metrics.parquet")
    Store(uri).client.log_metric(found.info.run_id, "time/step_s", 9.0, step=3)
    assert sync(config) == {str(directory): 15}
    [found] = Store(uri).runs("toy", "grpo/0")
    assert history(uri, found.info.run_id) == in_parquet(directory / "metrics.parquet")


def test_infinity_is_held_once(tmp_path, uri):
    """MLflow's SQL stores keep the largest number in its place; that is no foreign point."""
    recorder = RunRecorder(tmp_path / "run", RUN, None)
    recorder.log(1, {"loss/value": math.inf, "policy/kl_old": -math.inf})
    recorder.finish()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"run": RUN.model_dump(mode="json")}))
    assert mirror_run(uri, tmp_path / "run") == 2
    assert mirror_run(uri, tmp_path / "run") == 0
    client = MlflowClient(uri)
    [found] = client.search_runs(
        [client.get_experiment_by_name("toy").experiment_id], run_view_type=ViewType.ALL
    )
    assert found.data.metrics["loss/value"] == sys.float_info.max


def test_sync_gives_a_run_its_missing_parameters(tmp_path, uri):
    """A mirror that was stopped after it had made the run, and before it had described it."""
    recorder = RunRecorder(tmp_path / "run", RUN, None)
    recorder.log(1, metrics(1))
    recorder.finish()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"run": RUN.model_dump(mode="json")}))
    store = Store(uri)
    made = MlflowClient(uri).create_run(
        store.experiment("toy"), run_name="grpo/0", tags=run_tags(RUN, tmp_path / "run")
    )
    assert mirror_run(uri, tmp_path / "run") == 3
    held = MlflowClient(uri).get_run(made.info.run_id)
    assert held.data.params == parameters(RUN)
    assert held.info.status == "FINISHED"


def test_a_store_is_created_as_a_whole(tmp_path):
    """Nothing else is left, and one that is there stays."""
    uri = f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    ensure_store(uri, tmp_path / "artifacts")
    assert [path.name for path in (tmp_path / "mlflow").iterdir()] == ["mlflow.db"]
    Store(uri).experiment("toy")
    ensure_store(uri, tmp_path / "artifacts")
    create_store(uri, tmp_path / "artifacts")
    assert MlflowClient(uri).get_experiment_by_name("toy") is not None


@pytest.mark.parametrize("folder", ["{}/file", "/proc"], ids=["a file", "no place for files"])
def test_a_store_that_cannot_be_created_costs_a_warning(tmp_path, caplog, folder):
    """The system's reason, at once; MLflow would try for 100 seconds to open one."""
    (tmp_path / "file").touch()
    uri = f"sqlite:///{folder.format(tmp_path)}/mlflow.db"
    ensure_store(uri, tmp_path / "artifacts")
    [record] = caplog.records
    assert f"MLflow ({uri}) lacks a store: [Errno " in record.getMessage()


def test_artifacts_on_the_summary_run(tmp_path, uri):
    figure = tmp_path / "figure.svg"
    figure.write_text("<svg/>")
    assert log_artifacts(uri, {figure: "figures"})
    [found] = Store(uri).runs("summary", "summary")
    names = [f.path for f in MlflowClient(uri).list_artifacts(found.info.run_id, "figures")]
    assert names == ["figures/figure.svg"]


def test_missing_rows_stop_the_run(tmp_path):
    with pytest.raises(RecordError, match=r"state/metrics.jsonl: 0 intact rows where steps 1 to 2"):
        RunRecorder(tmp_path, RUN, None, first_step=3)


def test_tracking_uri():
    assert tracking_uri(parse(CONFIG)) == "sqlite:///results/mlflow/mlflow.db"
    assert tracking_uri(parse(CONFIG | {"results": "/a/b"})) == "sqlite:////a/b/mlflow/mlflow.db"
    assert tracking_uri(parse(CONFIG | {"tracking": {"enabled": False}})) is None
    assert tracking_uri(parse(CONFIG | {"tracking": {"uri": "http://x"}})) == "http://x"
