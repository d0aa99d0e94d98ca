"""Secrets of the environment stay there; doors that only the configuration opens."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from aent.config import ConfigError, load, parse

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "config.yaml"
NAMES = (
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "PGPASSWORD",
    "WANDB_API_KEY",
)
SECRETS = {name: f"planted-{name[::-1].lower()}-5f1d" for name in NAMES}


def configuration(**changes):
    return yaml.safe_load(CONFIG.read_text()) | changes


@pytest.mark.slow
def test_a_run_writes_no_secret(toy, tmp_path):
    """Every byte that a run with its MLflow mirror leaves or prints."""
    results, file = tmp_path / "results", tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(configuration(results=str(results))))
    shutil.copytree(toy.model, results / "models" / "tiny")
    (results / "problems").mkdir()
    shutil.copy(toy.problems, results / "problems" / "train.jsonl")
    options = ["--config", str(file), "--setting", "toy", "--method", "aent", "--keep-state"]
    done = subprocess.run(
        [sys.executable, "-m", "aent", "train", *options, "--log", str(tmp_path / "train.log")],
        env=os.environ | SECRETS | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    names = {path.name for path in written}
    assert names >= {"run.json", "metrics.parquet", "mlflow.db", "train.log", "model.safetensors"}
    for secret in SECRETS.values():
        assert secret.encode() not in done.stdout + done.stderr
        assert [path for path, data in written.items() if secret.encode() in data] == []


def test_a_password_in_the_configuration_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match=r"tracking\.uri.*password") as refused:
        parse(configuration(tracking={"uri": "https://me:hunter22@example.org/mlflow"}))
    assert "hunter22" not in str(refused.value)


@pytest.mark.parametrize("kind", [AutoModelForCausalLM, AutoTokenizer])
@pytest.mark.parametrize("trusted", [False, True])
def test_code_of_a_model_is_run_only_when_trusted(toy, monkeypatch, kind, trusted):
    from aent.models import load_model, load_tokenizer

    asked, real = [], kind.from_pretrained

    def record(*arguments, **named):
        asked.append(named["trust_remote_code"])
        return real(*arguments, **named)

    monkeypatch.setattr(kind, "from_pretrained", record)
    open_it = load_model if kind is AutoModelForCausalLM else load_tokenizer
    open_it(toy.model)
    open_it(toy.model, trust_remote_code=trusted)
    assert asked == [False, trusted]


def test_trust_holds_for_the_model_that_names_it():
    config = load(CONFIG)
    assert not config.run("toy", "aent", 0).trust_remote_code
    data = configuration()
    data["models"]["foreign"] = {
        "kind": "pretrained",
        "path": "owner/model",
        "revision": "a" * 40,
        "trust_remote_code": True,
    }
    data["settings"]["toy-second"]["model"] = "foreign"
    config = parse(data)
    assert config.run("toy-second", "aent", 0).trust_remote_code
    assert not config.run("toy", "aent", 0).trust_remote_code


def test_the_user_interface_listens_on_loopback():
    [line] = [line for line in (ROOT / "Makefile").read_text().splitlines() if "mlflow ui" in line]
    assert "--host 127.0.0.1 " in line
