"""`aent evaluate` in two processes scores as one does, to the last completion."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from aent.config import load
from aent.evaluation import runner

CONFIG = {
    "problems": {"b": {"kind": "file", "path": "b.jsonl"}},
    "models": {"m": {"kind": "pretrained", "path": "./m"}},
    "settings": {
        "s": {
            "model": "m",
            "problems": "b",
            "evaluation": {"benchmarks": ["b"], "samples": 3, "max_response_tokens": 6},
        }
    },
    "methods": {"grpo": {"advantage": "grpo", "surrogate": "ppo_clip"}},
    "tables": {
        "t": {"kind": "scores", "title": "T", "settings": ["s"], "methods": ["grpo"], "seeds": [0]}
    },
}


@pytest.mark.slow
def test_two_processes_score_as_one(model_dir, problem_file, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    shutil.copytree(model_dir, tmp_path / "results/models/m")
    (tmp_path / "results/problems").mkdir()
    # Eleven problems: the second process has one fewer.
    lines = problem_file.read_text().splitlines(keepends=True)[:11]
    file = tmp_path / "results/problems/b.jsonl"
    file.write_text("".join(lines))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "aent", "evaluate", "--config", "config.yaml"]
    processes = [
        subprocess.Popen(
            [*command, "--setting", "s"],
            cwd=tmp_path,
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    setting = load(tmp_path / "config.yaml").settings["s"]
    alone = tmp_path / "alone.json"
    try:
        checkpoint = runner.Checkpoint("s", "base", None, 0, model_dir)
        runner.evaluate_checkpoints([checkpoint], setting, {"b": file}, lambda _: alone)
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    together = tmp_path / "results/s/base/scores/step-0.json"
    found, expected = (json.loads(path.read_text())["benchmarks"] for path in (together, alone))
    assert found == expected
    assert found["b"]["problems"] == 11
    details = [pd.read_parquet(path.with_suffix(".parquet")) for path in (together, alone)]
    assert len(details[0]) == 33
    pd.testing.assert_frame_equal(*details)
