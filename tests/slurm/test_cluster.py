"""The workflow through `sbatch`, with the profile that a cluster's users get."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml

HERE = Path(__file__).parent
CONFIG = yaml.safe_load((HERE / "config.yaml").read_text())
STEPS = CONFIG["settings"]["toy"]["trainer"]["steps"]
CANCELLED = "toy/grpo/seed0"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Submission:
    """A finished call of Snakemake."""

    folder: Path
    output: str
    status: int

    @property
    def name(self) -> str:
        """What its jobs are called in Slurm."""
        [name] = re.findall(r"SLURM run ID: (\S+)", self.output)
        return name


@pytest.fixture(scope="module")
def workflow(slurm, profile, snakemake, tmp_path_factory) -> Submission:
    """The workflow and the small rules beside it, with a training job cancelled half-way."""
    folder = tmp_path_factory.mktemp("workflow")
    options = ["--snakefile", str(HERE / "Snakefile"), "--configfile", str(HERE / "config.yaml")]
    # Jobs of seconds are looked at sooner than jobs of hours.
    options += ["--profile", str(profile), "--slurm-init-seconds-before-status-checks", "4"]
    with ThreadPoolExecutor() as pool:
        done = pool.submit(
            snakemake, *options, "--", "all", "small", folder=folder, environment=slurm.environment
        )
        cancel_half_way(slurm, folder, done)
        return Submission(folder, done.result().stdout, done.result().returncode)


def cancel_half_way(slurm, folder: Path, workflow: Future) -> None:
    """Cancel the first job of a training run when some of its steps are done."""
    rows = folder / f"results/{CANCELLED}/state/metrics.jsonl"
    while not workflow.done():
        if rows.exists() and rows.read_text().count("\n") >= STEPS // 10:
            running = slurm("squeue", "-h", "-t", "R", "-o", "%i %k").splitlines()
            [job] = [line.split()[0] for line in running if line.endswith("toy_wildcards_grpo_0")]
            slurm("scancel", job)
            return
        time.sleep(0.05)


def test_everything_is_made(workflow):
    assert workflow.status == 0, workflow.output[-8000:]
    results = workflow.folder / "results"
    table = pd.read_csv(results / "tables/table1.csv")
    assert len(table) > 0
    assert (results / "report.html").stat().st_size > 1000


def test_all_jobs_complete_but_the_cancelled_one(workflow, slurm):
    rules = {
        "create_model_tiny": ["COMPLETED"],
        "evaluate_base_toy": ["COMPLETED"],
        "train_policy_toy_grpo_0": ["CANCELLED", "COMPLETED"],
        "train_policy_toy_aent_0": ["COMPLETED"],
        "evaluate_checkpoints_toy_60_grpo_0": ["COMPLETED"],
        "evaluate_checkpoints_toy_60_aent_0": ["COMPLETED"],
    }
    found = {rule: [job["JobState"] for job in slurm.jobs(workflow.name, rule)] for rule in rules}
    assert found == rules


def test_jobs_ask_for_what_their_rules_need(workflow, slurm):
    [train] = slurm.jobs(workflow.name, "train_policy_toy_aent_0")
    assert train["Partition"] == "test"
    assert train["Account"] == "research"
    assert train["JobName"].startswith("aent_")
    assert train["TimeLimit"] == "00:50:00"
    assert "cpu=1,mem=1500M,node=1" in train["TRES"]
    assert "gpu" not in train["JOB_GRES"]
    assert train["Requeue"] == "1"
    _, again = slurm.jobs(workflow.name, "train_policy_toy_grpo_0")
    assert "mem=2250M" in again["TRES"]


def test_evaluation_is_given_a_gpu(workflow, slurm):
    for rule in ("evaluate_base_toy", "evaluate_checkpoints_toy_60_aent_0"):
        [job] = slurm.jobs(workflow.name, rule)
        assert job["TimeLimit"] == "00:40:00"
        assert "mem=1600M" in job["TRES"]
        assert job["JOB_GRES"] == "gpu:fake:1"


def test_cancelled_training_goes_on_and_ends_with_the_same_metrics(workflow):
    log = (workflow.folder / f"results/logs/train/{CANCELLED}.log").read_text()
    [step] = re.findall(r"going on after step (\d+)", log)
    assert STEPS // 10 <= int(step) < STEPS
    command = ["train", "--config", str(HERE / "config.yaml"), "--setting", "toy"]
    command += ["--method", "grpo", "--output", "undisturbed"]
    subprocess.run([sys.executable, "-m", "aent", *command], cwd=workflow.folder, check=True)
    pd.testing.assert_frame_equal(
        learned(workflow.folder / "undisturbed"), learned(workflow.folder / "results" / CANCELLED)
    )


def learned(run: Path) -> pd.DataFrame:
    """A run's metrics without timings."""
    metrics = pd.read_parquet(run / "metrics.parquet")
    timings = [name for name in metrics if name.startswith(("time/", "throughput/"))]
    return metrics.drop(columns=timings)


def test_a_gpu_job_sees_its_devices(workflow, slurm):
    [job] = slurm.jobs(workflow.name, "see_devices")
    assert job["NumNodes"] == "1"  # also while each node has a single GPU left
    assert "cpu=2,mem=800M,node=1" in job["TRES"]
    assert job["JOB_GRES"] == "gpu:fake:2"
    assert (workflow.folder / "devices.txt").read_text() == "0,1\n"


def test_a_run_on_two_nodes_has_the_metrics_of_one_process(workflow, slurm):
    [job] = slurm.jobs(workflow.name, "train_on_two_nodes")
    assert job["NodeList"] == "n[1-2]"
    assert "mem=3000M,node=2" in job["TRES"]
    assert job["JOB_GRES"] == "gpu:fake:2"
    found, expected = (
        learned(workflow.folder / run).head(5) for run in ("spread", "results/toy/aent/seed0")
    )
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-4)


def test_a_failing_job_is_tried_again_and_its_log_shown(workflow, slurm):
    first, second = slurm.jobs(workflow.name, "stumble")
    assert (first["JobState"], second["JobState"]) == ("FAILED", "COMPLETED")
    assert "the first attempt stumbled over a stone" in workflow.output
    assert (workflow.folder / "stumbled.txt").read_text() == "2\n"
