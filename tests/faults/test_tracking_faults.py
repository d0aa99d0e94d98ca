"""MLflow's store locked, read-only, deleted; its server killed; eight writers at once.

Training goes on meanwhile, and afterwards MLflow has each step once, by itself or after `aent
sync`. A fault in the middle begins when MLflow has rows of the run, and ends when training has said
that MLflow does not take them, and has taken steps (`paced.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from paced import AFTER, Training, mirrors, train_as_allowed, wait

from aent.cli import main
from aent.signals import STATUS
from aent.store import is_there
from aent.tracking import create_store

CONFIG = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text())
STEPS = {"steps": 60, "save_every": 60, "state_every": 20}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def start(toy, run, output, uri):
    """Train at full speed in a process that waits for MLflow however busy the machine is."""
    log = output.with_name(f"{output.name}.log")
    return toy.start(run, output, uri, target=train_as_allowed, first=(None, log))


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A SQLite store; making one takes seconds, so tests copy it."""
    folder = tmp_path_factory.mktemp("store")
    create_store(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")
    return folder / "mlflow.db"


@pytest.fixture
def database(empty_store, tmp_path):
    (tmp_path / "mlflow").mkdir()
    return Path(shutil.copy(empty_store, tmp_path / "mlflow"))


@pytest.fixture
def study(tmp_path):
    """Function: a tracking URI -> a configuration file for `aent sync`."""

    def write(uri):
        file = tmp_path / "config.yaml"
        data = CONFIG | {"results": str(tmp_path / "results"), "tracking": {"uri": uri}}
        file.write_text(yaml.safe_dump(data))
        return ["sync", "--config", str(file)]

    return write


@pytest.fixture
def output(tmp_path):
    return tmp_path / "results" / "toy" / "aent" / "seed0"


def histories(uri):
    """Names of the active runs in the experiment -> all their points, repeats included."""
    client = MlflowClient(uri)
    found = {}
    for run in client.search_runs([client.get_experiment_by_name("toy").experiment_id]):
        assert run.info.status == "FINISHED"
        points = {
            name: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        assert run.info.run_name not in found
        found[run.info.run_name] = {name: sorted(held) for name, held in points.items()}
    return found


def in_files(output):
    frame = pd.read_parquet(output / "metrics.parquet").set_index("step")
    return {name: list(frame[name].items()) for name in frame}


def lock(database):
    """A connection that holds an exclusive lock on the store."""
    connection = sqlite3.connect(database, timeout=60, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


@pytest.mark.parametrize(("seconds", "steps"), [(6, 60), (65, 400)], ids=["6", "65"])
def test_a_locked_store(toy, database, output, seconds, steps):
    """The mirror waits, and has everything when training ends; training does not wait."""
    uri = f"sqlite:///{database}"
    training = Training(toy, output, uri, steps)
    training.until_mlflow_has_rows(database)
    locked, until = lock(database), time.monotonic() + seconds
    [mirror] = mirrors(training.process.pid)
    training.goes_on()
    wait(lambda: str(database) in opened(mirror))  # it waits for the lock
    time.sleep(max(0.0, until - time.monotonic()))
    assert training.rows() < steps - AFTER, "training stood still during a part of the lock"
    locked.close()
    assert training.ends() == []  # its patience is longer
    assert histories(uri) == {"aent/0": in_files(output)}


def test_a_store_locked_at_the_end_of_a_run(
    toy, database, output, study, caplog, capsys, monkeypatch
):
    """The run ends all the same, with one warning; `aent sync` says so too, then fills the gap."""
    monkeypatch.setattr("aent.mirror.FINISH_S", 3.0)
    monkeypatch.setattr("aent.mirror.HURRY_S", 1.0)
    uri, steps = f"sqlite:///{database}", {"steps": 6, "save_every": 6}
    locked = lock(database)
    toy.train(toy.run("aent", **steps), output, uri)
    assert only_warning(caplog, uri) == "no answer within 3 s"
    assert main(study(uri)) == 1
    assert "database is locked" in capsys.readouterr().err
    locked.close()
    synchronised(study(uri), uri, output, capsys)


def test_sigterm_while_a_run_waits_for_its_mirror(toy, database, output):
    """It ends at once with the status that says "again", and again it is complete."""
    uri, run = f"sqlite:///{database}", toy.run("aent", steps=6, save_every=6)
    locked = lock(database)
    process = start(toy, run, output, uri)
    wait(lambda: mirrors(process.pid))
    [mirror] = mirrors(process.pid)
    order = os.readlink(f"/proc/{mirror}/fd/0")  # a pipe, which training closes before it waits
    wait(lambda: order not in opened(process.pid))
    assert (output / "metrics.parquet").exists()
    process.terminate()
    process.join(60)
    assert process.exitcode == STATUS
    assert not _lives(mirror)
    locked.close()
    process = start(toy, run, output, uri)
    process.join()
    assert process.exitcode == 0
    assert histories(uri) == {"aent/0": in_files(output)}


def only_warning(caplog, uri):
    """The reason in the one warning of a run, which names store and remedy."""
    [record] = [record for record in caplog.records if record.levelname == "WARNING"]
    text = record.getMessage()
    assert uri in text
    assert text.endswith("filled in by: aent sync")
    return text.partition("toy/aent/seed0: ")[2].partition(". T")[0]


def synchronised(command, uri, output, capsys):
    """`aent sync` fills the gap, which is not empty; the second time adds nothing."""
    capsys.readouterr()
    assert main(command) == 0
    assert f"{output}: " in (said := capsys.readouterr().out)
    assert "points filled" in said
    assert main(command) == 0
    assert capsys.readouterr().out == f"{output}: complete\n"
    assert histories(uri) == {"aent/0": in_files(output)}


@pytest.fixture
def disk(tmp_path):
    """A file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system takes root")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(disk, mode):
    """Make a file system read-only (ro), as soon as no file is being written, or writable (rw)."""
    command = ["mount", "-o", f"remount,{mode}", str(disk)]
    wait(lambda: not subprocess.run(command, capture_output=True, check=False).returncode)


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_store_becomes_read_only(toy, empty_store, disk, output, study, capsys, comes_back):
    database = shutil.copy(empty_store, disk)
    uri = f"sqlite:///{database}"
    training = Training(toy, output, uri)
    training.until_mlflow_has_rows(database)
    remount(disk, "ro")
    training.goes_on(says="does not take")
    if comes_back:
        remount(disk, "rw")
    [warning] = training.ends()
    assert "attempt to write a readonly database" in warning
    if not comes_back:
        remount(disk, "rw")
        synchronised(study(uri), uri, output, capsys)
    assert histories(uri) == {"aent/0": in_files(output)}


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_store_is_taken_away(toy, database, output, study, capsys, comes_back):
    """What comes back is the same file; what is gone is made anew by `aent sync`."""
    uri, away = f"sqlite:///{database}", database.with_name("away.db")
    training = Training(toy, output, uri)
    training.until_mlflow_has_rows(database)
    database.rename(away)
    training.goes_on(says="does not take")
    if comes_back:
        away.rename(database)
    [warning] = training.ends()
    assert f"{database}: there is no MLflow store here" in warning
    if not comes_back:
        # A connection at the moment of the deletion leaves an empty file, which counts as none.
        assert not is_there(database)
        database.touch()
        synchronised(study(uri), uri, output, capsys)
    assert histories(uri) == {"aent/0": in_files(output)}


def test_a_store_is_replaced_by_an_empty_one(toy, database, empty_store, output):
    """The mirror begins anew in the other one."""
    uri = f"sqlite:///{database}"
    training = Training(toy, output, uri)
    training.until_mlflow_has_rows(database)
    database.unlink()
    shutil.copy(empty_store, database)
    training.goes_on(says="does not take")
    [warning] = training.ends()
    assert "not found" in warning
    assert histories(uri) == {"aent/0": in_files(output)}


def test_a_store_that_comes_late(toy, database, output):
    """There is none when training starts, and all rows are in it in the end."""
    uri, away = f"sqlite:///{database}", database.with_name("away.db")
    database.rename(away)
    training = Training(toy, output, uri)
    training.goes_on(says="does not take")
    away.rename(database)
    [warning] = training.ends()
    assert f"{database}: there is no MLflow store here" in warning
    assert histories(uri) == {"aent/0": in_files(output)}


class Server:
    """`mlflow server` on loopback, over a SQLite store."""

    def __init__(self, database):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.database = database
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        self.process = subprocess.Popen(
            [*command, "--backend-store-uri", f"sqlite:///{self.database}"],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            cwd=self.database.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        wait(self._answers)

    def _answers(self):
        assert self.process.poll() is None
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
            return True
        return False

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(database):
    server = Server(database)
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_server_is_killed(toy, server, output, study, capsys, comes_back):
    """It is brought back before the run ends, or after."""
    training = Training(toy, output, server.uri)
    training.until_mlflow_has_rows(server.database)
    server.kill()
    training.goes_on(says="does not take")
    if comes_back:
        server.start()
    [warning] = training.ends()
    assert "Connection refused" in warning
    if not comes_back:
        server.start()
        synchronised(study(server.uri), server.uri, output, capsys)
    assert histories(server.uri) == {"aent/0": in_files(output)}


def test_eight_writers_at_once(toy, database, tmp_path):
    """Training runs of one SQLite store, all at the same time."""
    uri = f"sqlite:///{database}"
    runs = {f"aent/{seed}": toy.run("aent", seed=seed, **STEPS) for seed in range(8)}
    processes = [start(toy, run, tmp_path / name, uri) for name, run in runs.items()]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert histories(uri) == {name: in_files(tmp_path / name) for name in runs}


def opened(pid):
    """The files that a process has open."""
    files = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            files.add(os.readlink(file))
    return files


def test_the_mirror_is_killed(toy, database, output, study, capsys):
    """Training ends as ever; the rows come with `aent sync`."""
    uri = f"sqlite:///{database}"
    training = Training(toy, output, uri)
    training.until_mlflow_has_rows(database)
    [mirror] = mirrors(training.process.pid)
    os.kill(mirror, signal.SIGKILL)
    training.goes_on(says="lacks rows")
    [warning] = training.ends()
    assert "the mirror's process ended with status -9" in warning
    synchronised(study(uri), uri, output, capsys)


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_mirror_of_a_killed_run_ends(toy, database, output):
    """It must not meet the mirror of whoever goes on with the run."""
    process = start(toy, toy.run("aent", **STEPS), output, f"sqlite:///{database}")
    wait(lambda: mirrors(process.pid))
    [mirror] = mirrors(process.pid)
    process.kill()
    process.join()
    wait(lambda: not _lives(mirror))


def test_run_json_names_the_mlflow_run(toy, database, output):
    uri = f"sqlite:///{database}"
    toy.train(toy.run("aent", steps=4, save_every=4), output, uri)
    info = json.loads((output / "run.json").read_text())
    assert MlflowClient(uri).get_run(info["mlflow_run_id"]).info.run_name == "aent/0"
