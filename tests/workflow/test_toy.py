"""Every rule for real at toy size, once, and everything that must come out of it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from transformers import AutoModelForCausalLM, AutoTokenizer

from aent.config import load

ROOT = Path(__file__).parents[2]
CONFIG = load(ROOT / "tests/config.yaml")
RUNS = CONFIG.runs()
# The second setting's base model comes as a directory, as a user's own would.
PRETRAINED = (
    "models={existing: {kind: pretrained, path: existing-model}}",
    "settings={toy-second: {model: existing}}",
)
ARGUMENTS = ("--configfile", str(ROOT / "tests/config.yaml"), "--config", *PRETRAINED)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, snakemake):
    """A working folder in which the whole toy workflow has run."""
    from aent.models import build_tokenizer, create_model, save_model

    folder = tmp_path_factory.mktemp("toy")
    scratch = CONFIG.models["tiny"]
    tokenizer = build_tokenizer(scratch.vocabulary)
    save_model(create_model(scratch), tokenizer, folder / "existing-model")
    done = snakemake("--cores", "2", *ARGUMENTS, folder=folder)
    assert done.returncode == 0, done.stdout[-8000:]
    (folder / "output.txt").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    return folder / CONFIG.results


def test_everything_asked_for_is_there(results):
    names = [f"tables/{name}.{kind}" for name in CONFIG.tables for kind in ("csv", "md", "tex")]
    drawn = ["figure1", *CONFIG.figures]
    names += [f"figures/{name}.{kind}" for name in drawn for kind in ("svg", "pdf")]
    names += ["claims.csv", "claims.md", "report.html", "scores.parquet", "mlflow/mlflow.db"]
    sizes = {name: (results / name).stat().st_size for name in names}
    assert all(size > 100 for size in sizes.values()), sizes


def test_a_second_run_has_nothing_to_do(folder, results, snakemake):
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.is_file()}
    done = snakemake("--cores", "2", *ARGUMENTS, folder=folder)
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout
    assert before == {p: p.stat().st_mtime_ns for p in results.rglob("*") if p.is_file()}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_run_folder(results, run):
    folder = results / run.name
    steps = run.setting.trainer.steps
    assert pd.read_parquet(folder / "metrics.parquet")["step"].tolist() == list(range(1, steps + 1))
    info = json.loads((folder / "run.json").read_text())
    assert info["hash"] == run.hash or run.setting_name == "toy-second"
    assert info["threads"] == run.setting.trainer.threads
    assert not (folder / "state").exists()
    columns = pd.read_parquet(folder / "completions.parquet").columns
    assert {"step", "problem_id", "prompt", "completion", "answer", "reward"} <= set(columns)
    checkpoints = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert checkpoints == [f"step-{step}" for step in run.setting.trainer.checkpoint_steps]


def test_checkpoints_open_as_models(results):
    checkpoint = results / RUNS[0].name / "checkpoints" / "step-4"
    assert AutoModelForCausalLM.from_pretrained(checkpoint).config.model_type == "qwen2"
    assert AutoTokenizer.from_pretrained(checkpoint).eos_token is not None


def test_pretrained_model_is_linked(results, folder):
    weights = results / "models/existing/model.safetensors"
    assert weights.is_symlink()
    assert weights.resolve() == folder / "existing-model/model.safetensors"


def test_scores_have_every_checkpoint_and_the_base_models(results):
    scores = pd.read_parquet(results / "scores.parquet")
    found = set(zip(scores["setting"], scores["method"], scores["step"], strict=True))
    expected = {(name, "base", 0) for name in CONFIG.settings}
    for run in RUNS:
        steps = run.setting.trainer.checkpoint_steps
        expected |= {(run.setting_name, run.method_name, step) for step in steps}
    assert found == expected
    toy = scores[scores["setting"] == "toy"]
    assert set(zip(toy["benchmark"], toy["split"], strict=True)) == {
        ("easy", "test"),
        ("hard", "test"),
        ("validation", "validation"),
    }
    assert scores["average"].between(0, 1).all()


def history(client: MlflowClient, run_id: str) -> dict[str, dict[int, float]]:
    names = client.get_run(run_id).data.metrics
    return {
        name: {point.step: point.value for point in client.get_metric_history(run_id, name)}
        for name in names
    }


@pytest.fixture(scope="module")
def client(results):
    return MlflowClient(f"sqlite:///{results}/mlflow/mlflow.db")


@pytest.mark.parametrize("run", RUNS[::4], ids=lambda run: run.name)
def test_mlflow_equals_the_files(results, client, run):
    experiment = client.get_experiment_by_name(run.setting_name)
    query = f"attributes.run_name = '{run.method_name}/{run.seed}'"
    [mirrored] = client.search_runs([experiment.experiment_id], query)
    assert mirrored.info.status == "FINISHED"
    held = history(client, mirrored.info.run_id)
    metrics = pd.read_parquet(results / run.name / "metrics.parquet").set_index("step")
    for name in metrics:
        assert held[name] == metrics[name].dropna().to_dict(), name
    for step in run.setting.trainer.checkpoint_steps:
        score = json.loads((results / run.name / f"scores/step-{step}.json").read_text())
        for benchmark, values in score["benchmarks"].items():
            assert held[f"score/{benchmark}/avg"][step] == values["average"]
            assert held[f"score/{benchmark}/pass_stderr"][step] == values["pass_stderr"]
    assert len(held["score/average"]) == len(run.setting.trainer.checkpoint_steps)


def test_mlflow_has_the_base_model_and_the_figures(client):
    experiment = client.get_experiment_by_name("toy")
    query = "attributes.run_name = 'base'"
    [base] = client.search_runs([experiment.experiment_id], query)
    assert list(history(client, base.info.run_id)["score/average"]) == [0]
    summary = client.get_experiment_by_name("summary").experiment_id
    [run] = client.search_runs([summary])
    names = {item.path for item in client.list_artifacts(run.info.run_id, "figures")}
    assert {"figures/figure1.svg", "figures/figure3.pdf"} <= names


def outdated(snakemake, folder, change):
    """Rules that a changed value makes Snakemake run again."""
    done = snakemake("--dry-run", *ARGUMENTS, change, folder=folder)
    assert done.returncode == 0, done.stdout[-4000:]
    return set(re.findall(r"^(\w\S*) +\d+$", done.stdout, flags=re.MULTILINE)) - {"total", "all"}


@pytest.mark.parametrize(
    "change", ["plan={response_share: 0.5}", "problems={train: {title: Practice}}"]
)
def test_the_report_alone_is_written_again_for_what_it_alone_shows(folder, snakemake, change):
    assert outdated(snakemake, folder, change) == {"write_report", "mirror_results"}


def test_scores_depend_on_what_loads_and_sizes_the_engine(folder, snakemake):
    changed = outdated(snakemake, folder, "settings={toy: {trainer: {dtype: bfloat16}}}")
    assert {"evaluate_base_toy", "train_policy_toy", "write_report"} <= changed
    assert not {"evaluate_base_toy-second", "train_policy_toy-second"} & changed


def test_deleted_store_is_filled_anew_without_training(folder, results, snakemake):
    """MLflow is a mirror: losing it costs its filling and nothing else."""
    os.rename(results / "mlflow", folder / "lost")
    done = snakemake("--cores", "2", *ARGUMENTS, folder=folder)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.findall(r"Rule: (\w+)", done.stdout) == ["mirror_results", "all"]
    client = MlflowClient(f"sqlite:///{results}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("toy").experiment_id
    names = [run.info.run_name for run in client.search_runs([experiment])]
    mirrored = [f"{r.method_name}/{r.seed}" for r in RUNS if r.setting_name == "toy"]
    assert sorted(names) == sorted([*mirrored, "base"])


def test_logs_and_benchmarks_of_every_job(results):
    for run in RUNS:
        name = f"train/{run.setting_name}/{run.method_name}/seed{run.seed}"
        log = (results / "logs" / f"{name}.log").read_text()
        assert re.search(rf"{run.name} step 4 of 4, reward [\d.]+, entropy [\d.]+", log)
        assert "max_rss" in (results / "benchmarks" / f"{name}.tsv").read_text()


def test_terminal_shows_messages(folder):
    output = (folder / "output.txt").read_text()
    assert "Train aent in setting toy, seed 1" in output
    assert "Draw Figure 1 from the synthetic decision problem" in output


def test_snakemake_report(folder, snakemake):
    done = snakemake("--report", "snakemake-report.html", *ARGUMENTS, folder=folder)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "figure6" in (folder / "snakemake-report.html").read_text()


def test_same_seed_same_metrics(results, folder, snakemake):
    """Trained again, a run gives the same numbers, timings aside. Last: it outdates the rest."""
    path = results / "toy/aent/seed0/metrics.parquet"
    first = pd.read_parquet(path)
    target = str(path.relative_to(folder))
    done = snakemake("--cores", "1", "--force", *ARGUMENTS, "--", target, folder=folder)
    assert done.returncode == 0, done.stdout[-4000:]
    second = pd.read_parquet(path)
    timed = [name for name in first if name.startswith(("time/", "throughput/"))]
    pd.testing.assert_frame_equal(first.drop(columns=timed), second.drop(columns=timed))
