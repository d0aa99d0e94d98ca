"""A full disk: the error names the path, nothing is torn, and with space again the run goes on."""

from __future__ import annotations

import os
import re
import subprocess

import pandas as pd
import pytest

from aent import checksums
from aent.checkpoint import load_state
from aent.files import StorageError
from aent.journal import read_journal

STEPS = {"steps": 6, "save_every": 2, "state_every": 1}
SIZE_MB = 16


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    folder = tmp_path / "results"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _fill(folder, free):
    """Fill the disk with a file so that `free` bytes are left; returns the file."""
    filler = folder / "filler"
    space = os.statvfs(folder)
    with filler.open("wb") as file:
        file.write(bytes(space.f_bavail * space.f_frsize - free))
    return filler


# In KiB, from "not even the lease" to "all but the last checkpoint".
@pytest.mark.parametrize("free", [0, 4, 12, 64, 300, 500, 700, 900, 1100, 1300])
def test_a_full_disk(toy, undisturbed, same_outputs, small_disk, free):
    run, output = toy.run("aent", **STEPS), small_disk / "run"
    filler = _fill(small_disk, free * 1024)
    with pytest.raises(StorageError, match=re.escape(str(output))) as raised:
        toy.train(run, output)
    print(raised.value)
    _nothing_torn(output)
    filler.unlink()
    toy.train(run, output)
    same_outputs(output, undisturbed(run))


def test_full_when_a_run_is_published(toy, undisturbed, same_outputs, small_disk, monkeypatch):
    from aent.folder import RunFolder

    run, output = toy.run("aent", **STEPS), small_disk / "run"
    publish, fillers = RunFolder.publish, []

    def filled(*arguments):
        fillers.append(_fill(small_disk, 0))
        publish(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "publish", filled)
        with pytest.raises(StorageError, match=r"completions\.parquet: .* No space left"):
            toy.train(run, output)
    _nothing_torn(output)
    fillers[0].unlink()
    toy.train(run, output)
    same_outputs(output, undisturbed(run))


def _nothing_torn(output):
    """Whatever has its final name is whole, and no half file is left."""
    assert not list(output.rglob(".*.partial"))
    for path in output.rglob("*.parquet"):
        pd.read_parquet(path)
    for path in output.rglob("step-*"):
        assert checksums.damage(path) is None
    for state in output.rglob("state-*.pt"):
        assert load_state(state.parent) is not None
    for path in output.rglob("completions.jsonl"):
        assert path.read_text().count("\n") == len(read_journal(path))
