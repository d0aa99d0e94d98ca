"""The lease between processes: who lives keeps it, who is dead loses it, who lost it stops."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from aent import lease as module
from aent.files import StorageError
from aent.lease import Holder, Lease, LeaseError

ELSEWHERE = {"host": "elsewhere", "machine": "another boot"}


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.05)
    monkeypatch.setattr(module, "STALE_S", 0.6)


@pytest.fixture
def other():
    """A process that takes the lease of a folder, says so, and holds it until it is ended."""
    held = []

    def start(folder):
        code = (
            "import sys, time\nfrom pathlib import Path\nfrom aent import lease\n"
            "lease.BEAT_S, lease.STALE_S = 0.05, 0.6\n"
            "with lease.Lease(Path(sys.argv[1])) as held:\n"
            "    print('held', flush=True)\n"
            "    sys.stdin.readline()\n"
            "    held.check()\n"
            "print('ended', flush=True)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        held.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in held:
        process.kill()
        process.communicate()


def _write(path, **changes):
    path.write_text(json.dumps(dataclasses.asdict(Holder(**changes))) + "\n")


def test_taken_held_and_given_back(tmp_path):
    folder = tmp_path / "run"
    with Lease(folder) as lease:
        lease.check()
        assert [path.name for path in folder.iterdir()] == ["lease-1"]
        held = json.loads((folder / "lease-1").read_text())
        assert held["pid"] == os.getpid()
    assert not list(folder.iterdir())


def test_a_living_holder_is_named(tmp_path, other):
    process = other(tmp_path)
    with pytest.raises(LeaseError, match=rf"process {process.pid} on .* is writing to this run"):
        Lease(tmp_path).__enter__()
    process.communicate("go\n")
    assert process.returncode == 0
    with Lease(tmp_path):
        pass


def test_a_living_holder_elsewhere_is_known_by_its_heartbeat(tmp_path):
    path = tmp_path / "lease-1"
    with Lease(tmp_path) as lease:  # its thread beats, under the name of another machine
        lease.holder = Holder(**ELSEWHERE)
        path.write_text(json.dumps(dataclasses.asdict(lease.holder)) + "\n")
        with pytest.raises(LeaseError, match="on elsewhere is writing"):
            Lease(tmp_path).__enter__()


def test_a_killed_holder_is_replaced_at_once(tmp_path, other, monkeypatch):
    monkeypatch.setattr(module, "STALE_S", 3600.0)
    process = other(tmp_path)
    process.kill()
    process.wait()
    with Lease(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["lease-2"]


def test_a_silent_holder_elsewhere_is_replaced_after_a_while(tmp_path, caplog):
    _write(tmp_path / "lease-7", **ELSEWHERE)
    start = time.monotonic()
    with Lease(tmp_path):
        assert time.monotonic() - start >= module.STALE_S
        assert [path.name for path in tmp_path.iterdir()] == ["lease-8"]
    assert "no sign of life" in caplog.text


def test_who_does_not_wait_takes_only_what_is_known_to_be_free(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STALE_S", 3600.0)
    _write(tmp_path / "lease-7", **ELSEWHERE)
    with pytest.raises(LeaseError, match="on elsewhere is writing"):
        Lease(tmp_path, waits=False).__enter__()
    _write(tmp_path / "lease-7", started="12")  # here, and its process is gone
    with Lease(tmp_path, waits=False):
        assert [path.name for path in tmp_path.iterdir()] == ["lease-8"]


def test_a_number_used_again_is_not_the_dead_process(tmp_path):
    """Another process now has the number of the dead one: its start time tells."""
    _write(tmp_path / "lease-1", started="12")
    with Lease(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["lease-2"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"token": 1}', b"[]"])
def test_a_torn_lease_is_watched_like_any_other(tmp_path, content):
    (tmp_path / "lease-1").write_bytes(content)
    with Lease(tmp_path) as lease:
        lease.check()


def test_a_stopped_holder_ends_when_it_wakes_up(tmp_path, other):
    process = other(tmp_path)
    process.send_signal(signal.SIGSTOP)
    with Lease(tmp_path) as lease:
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate("go\n")
        assert process.returncode == 1
        assert f"has lost this run to process {os.getpid()}" in errors
        lease.check()  # its end took nothing away


def test_one_of_many_gets_a_dead_lease(tmp_path):
    _write(tmp_path / "lease-3", **ELSEWHERE)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom aent import lease\n"
        "lease.BEAT_S, lease.STALE_S = 0.05, 0.6\n"
        "with lease.Lease(Path(sys.argv[1])) as held:\n"
        "    time.sleep(2)\n"
        "    held.check()\n"
    )
    jobs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    errors = [job.communicate()[1].decode() for job in jobs]
    assert sorted(job.returncode for job in jobs) == [0, 1, 1, 1]
    assert sum("is writing to this run" in text for text in errors) == 3


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/run: cannot be written"):
        Lease(tmp_path / "file" / "run").__enter__()
