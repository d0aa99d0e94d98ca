"""What Snakemake plans, without running it, and the workflow's style."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from aent.config import load
from aent.config.revisions import moving

ROOT = Path(__file__).parents[2]


def jobs(output: str) -> dict[str, int]:
    """Number of jobs a rule, from the statistics of a dry run."""
    return {
        name: int(count)
        for name, count in re.findall(r"^(\S+) +(\d+)$", output, flags=re.MULTILINE)
    }


def plan(snakemake, folder: Path, *arguments: str) -> dict[str, int]:
    done = snakemake("--dry-run", *arguments, folder=folder)
    assert done.returncode == 0, done.stdout
    return jobs(done.stdout)


@pytest.fixture
def with_default(tmp_path):
    """A folder whose config/config.yaml is the default one."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    return tmp_path


def test_default_plan_trains_every_run_once(snakemake, with_default):
    config = load(ROOT / "config/config.yaml")
    planned = plan(snakemake, with_default)
    trained = {name: n for name, n in planned.items() if name.startswith("train_policy")}
    assert sum(trained.values()) == len(config.runs())
    assert set(trained) == {f"train_policy_{name}" for name in config.settings}
    assert planned["write_table"] == len(config.tables)
    assert planned["draw_figure"] == len(config.figures)
    assert planned["draw_mdp"] == planned["judge_claims"] == planned["write_report"] == 1


def test_a_configuration_without_claims_plans_none_and_warns_of_nothing(snakemake, tmp_path):
    data = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    del data["claims"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    done = snakemake("--dry-run", "--configfile", str(tmp_path / "config.yaml"), folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "judge_claims" not in done.stdout  # nor in a warning of missing rules
    assert "write_report" in jobs(done.stdout)


def test_paper_plan_resolves_without_network_and_without_the_laptop(snakemake, with_default):
    config = load(ROOT / "config/paper.yaml")
    arguments = ["--dry-run", "--configfile", str(ROOT / "config/paper.yaml")]
    done = snakemake(*arguments, folder=with_default)
    assert done.returncode == 0, done.stdout
    assert all(sentence in done.stdout for sentence in moving(config))
    planned = jobs(done.stdout)
    trained = {name: n for name, n in planned.items() if name.startswith("train_policy")}
    assert set(trained) == {"train_policy_a", "train_policy_b", "train_policy_c"}
    assert sum(trained.values()) == len(config.runs())
    assert planned["fetch_model"] == 3
    assert "create_model" not in planned
    checkpoints = len(config.settings["a"].trainer.checkpoint_steps)
    evaluated = [name for name in planned if name.startswith("evaluate_checkpoints_a_")]
    assert len(evaluated) == checkpoints


def test_one_table_needs_its_runs_only(snakemake, with_default):
    config = load(ROOT / "config/config.yaml")
    planned = plan(snakemake, with_default, "results/tables/table3.md")
    trained = {name: n for name, n in planned.items() if name.startswith("train_policy")}
    assert trained == {"train_policy_laptop-second": len(config.runs_of(config.tables["table3"]))}


def test_single_values_change_on_the_command_line(snakemake, with_default):
    done = snakemake("--dry-run", "--config", "results=elsewhere", folder=with_default)
    assert done.returncode == 0
    assert "elsewhere/tables/table1.md" in done.stdout
    assert "results/tables" not in done.stdout


def test_slurm_profile_plans_the_same(snakemake, with_default):
    profile = str(ROOT / "workflow/profiles/slurm")
    assert plan(snakemake, with_default, "--workflow-profile", profile) == plan(
        snakemake, with_default
    )


def test_lint_is_clean(snakemake, with_default):
    done = snakemake("--lint", folder=with_default)
    assert done.returncode == 0, done.stdout
    assert "Congratulations" in done.stdout


def test_format_is_clean():
    command = [Path(sys.executable).parent / "snakefmt", "--check", "Snakefile", "workflow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path", sorted((ROOT / "workflow/rules").glob("*.smk")), ids=lambda p: p.stem
)
def test_rules_say_what_they_need(path):
    text = path.read_text()
    rules = len(re.findall(r"^\s*rule\b.*:", text, flags=re.MULTILINE))
    assert rules or path.stem == "common"
    for directive in (
        "message:",
        "log:",
        "benchmark:",
        "threads:",
        r"(mem_mb=|\*\*\w+_needs\()",
        r"(runtime=|\*\*\w+_needs\()",
        "script:",
    ):
        found = re.findall(rf"^ +{directive}", text, flags=re.MULTILINE)
        assert len(found) == rules, directive
