"""Secrets of the environment stay there; doors that only the configuration opens."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from aent.config import ConfigError, load, parse
from aent.logs import HIDDEN
from aent.problems import load_problems
from aent.problems.record import write_problems

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


def prepare(toy, folder, **changes):
    """A working folder with everything that a toy run and its evaluation read."""
    file, results = folder / "config.yaml", folder / "results"
    file.write_text(yaml.safe_dump(configuration(results="results", **changes)))
    shutil.copytree(toy.model, results / "models" / "tiny")
    (results / "problems").mkdir()
    for name, source in load(CONFIG).problems.items():
        write_problems(results / "problems" / f"{name}.jsonl", load_problems(source))
    return file


def run(folder, module, *options):
    """What a program prints in the folder, with all secrets in its environment."""
    done = subprocess.run(
        [sys.executable, "-m", module, *options],
        env=os.environ | SECRETS | {"OMP_NUM_THREADS": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout


def leaks(folder, *printed):
    """Names of secrets that stand in a file of the folder or in what was printed, and where."""
    texts = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    texts |= {f"terminal {number}": text for number, text in enumerate(printed)}
    found = [
        (name, at) for name, s in SECRETS.items() for at, t in texts.items() if s.encode() in t
    ]
    return {path.name for path in texts if isinstance(path, Path)}, found


@pytest.mark.slow
def test_training_and_evaluation_write_no_secret(toy, tmp_path):
    """Every byte that a run with its MLflow mirror, and its evaluation, leave or print."""
    prepare(toy, tmp_path)
    which = ["--config", "config.yaml", "--setting", "toy", "--method", "aent"]
    status, trained = run(tmp_path, "aent", "train", *which, "--keep-state", "--log", "train.log")
    assert status == 0, trained.decode()
    options = ["--steps", "4", "--log", "evaluate.log"]
    status, scored = run(tmp_path, "aent", "evaluate", *which, *options)
    assert status == 0, scored.decode()
    names, found = leaks(tmp_path, trained, scored)
    assert names >= {"run.json", "metrics.parquet", "mlflow.db", "train.log", "model.safetensors"}
    assert names >= {"step-4.json", "evaluate.log"}
    assert found == []


class Repeating(http.server.BaseHTTPRequestHandler):
    """A tracking server that refuses, and repeats the credentials in its refusal."""

    def do_GET(self):
        message = f"not with {self.headers['Authorization']}"
        body = json.dumps({"error_code": "PERMISSION_DENIED", "message": message}).encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def repeating():
    """Address of a server that repeats credentials."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Repeating) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


MIRROR = """
import sys
from pathlib import Path
from aent import mirror
from aent.config import load
from aent.logs import configure_logging
from aent.tracking import RunRecorder
configure_logging("mirror.log")
mirror.NICENESS, mirror.FINISH_S, mirror.HURRY_S = 0, 200.0, 200.0  # a busy machine is no matter
recorder = RunRecorder(Path("run"), load("config.yaml").run("toy", "aent", 0), sys.argv[1], 1)
recorder.log(1, {"reward/mean": 0.5})
recorder.finish()
"""


@pytest.mark.slow
def test_what_a_mirror_cannot_do_is_told_without_secrets(toy, tmp_path, repeating):
    shutil.copy(CONFIG, tmp_path / "config.yaml")
    (tmp_path / "mirror_it.py").write_text(MIRROR)
    status, printed = run(tmp_path, "mirror_it", repeating)
    assert status == 0, printed.decode()
    _, found = leaks(tmp_path, printed)
    assert found == []
    for text in (printed, (tmp_path / "mirror.log").read_bytes()):
        assert f"not with Bearer {HIDDEN}" in text.decode()


@pytest.mark.slow
def test_sync_tells_of_a_refusal_without_secrets(tmp_path, repeating):
    data = configuration(results=str(tmp_path), tracking={"uri": repeating})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    status, printed = run(tmp_path, "aent", "sync", "--config", "config.yaml")
    assert status == 1
    assert f"does not answer: PERMISSION_DENIED: not with Bearer {HIDDEN}" in printed.decode()
    assert leaks(tmp_path, printed)[1] == []


@pytest.mark.slow
def test_a_job_of_snakemake_writes_no_secret(toy, tmp_path, repeating):
    """All that Snakemake keeps of a training, too; a refusal that repeats a secret included."""
    file = prepare(toy, tmp_path, tracking={"uri": repeating})
    target = "results/toy/aent/seed0/run.json"
    options = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", str(file), "--cores", "1"]
    status, printed = run(tmp_path, "snakemake", *options, "--", target)
    assert status == 0, printed.decode()
    names, found = leaks(tmp_path, printed)
    assert names >= {"run.json", "metrics.parquet", "seed0.log", "model.safetensors"}
    assert any(path.suffixes[-2:] == [".snakemake", ".log"] for path in map(Path, names))
    assert found == []


def test_a_password_in_the_configuration_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match=r"tracking\.uri.*password") as refused:
        parse(configuration(tracking={"uri": "https://me:hunter22@example.org/mlflow"}))
    assert "hunter22" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("https://me:hunter22@[example.org", "not a URI"),
        (f"https://example.org/\n{SECRETS['HF_TOKEN']}", "pattern"),
        ([f"https://me:hunter22@example.org/?{SECRETS['HF_TOKEN']}"], "valid string"),
    ],
)
def test_an_impossible_uri_is_refused_and_its_secrets_not_repeated(monkeypatch, uri, message):
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    with pytest.raises(ConfigError, match=rf"tracking\.uri: .*{message}") as refused:
        parse(configuration(tracking={"uri": uri}))
    assert HIDDEN in str(refused.value)
    assert "hunter22" not in str(refused.value)
    assert SECRETS["HF_TOKEN"] not in str(refused.value)


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
