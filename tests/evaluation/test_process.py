"""What an evaluation job must not depend on: hash seeds, the network, git, caches."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from aent.config import Setting
from aent.evaluation import runner

NAMES = ["c", "b", "a"]

SCRIPT = """
import json, socket, sys
from pathlib import Path

asked = []
def refuse(*arguments, **_):
    asked.append(str(arguments))
    raise OSError("no network in this test")
socket.getaddrinfo = socket.socket.connect = socket.socket.connect_ex = refuse

from test_process import evaluate
import torch

evaluate(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
Path(sys.argv[3]).with_suffix(".asked").write_text(
    json.dumps({"asked": asked, "gradients": torch.is_grad_enabled()}))
"""


def evaluate(model_dir, problems, path):
    """Three benchmarks of the same problems."""
    setting = Setting.model_validate(
        {
            "model": "m",
            "problems": "p",
            "evaluation": {"benchmarks": NAMES, "samples": 2, "max_response_tokens": 6},
        }
    )
    checkpoint = runner.Checkpoint("s", "m", 0, 5, model_dir)
    files = dict.fromkeys(NAMES, problems)
    runner.evaluate_checkpoints([checkpoint], setting, files, lambda _: path)
    return json.loads(path.read_text())["benchmarks"], pd.read_parquet(path.with_suffix(".parquet"))


@pytest.mark.slow
def test_another_process_gets_the_same_result_without_network_git_or_cache(
    model_dir, problem_file, tmp_path
):
    ours = evaluate(model_dir, problem_file, tmp_path / "ours.json")
    home = tmp_path / "home"
    home.mkdir()
    hidden = ("HF_", "GIT_PYTHON", "TRANSFORMERS_", "XDG_")
    env = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    env |= {
        "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1",
        "PYTHONPATH": os.path.dirname(__file__),
        "PATH": str(home),
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
    }
    theirs = tmp_path / "theirs.json"
    subprocess.run(
        [sys.executable, "-c", SCRIPT, model_dir, problem_file, theirs], env=env, check=True
    )
    assert json.loads(theirs.read_text())["benchmarks"] == ours[0]
    pd.testing.assert_frame_equal(pd.read_parquet(theirs.with_suffix(".parquet")), ours[1])
    # The three benchmarks hold the same problems, but their noise differs.
    completions = ours[1].groupby("benchmark")["completion"].agg(list)
    assert completions["a"] != completions["b"]
    seen = json.loads(theirs.with_suffix(".asked").read_text())
    assert seen == {"asked": [], "gradients": True}
    assert [str(file) for file in home.rglob("*") if file.is_file()] == []
