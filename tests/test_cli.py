"""Options of the commands that do not go together, and what is taken where one is left out."""

import pytest
import yaml

from aent.cli import main
from aent.config import load

STUDY = {
    "problems": {"p": {"kind": "synthetic"}},
    "models": {"m": {"kind": "scratch", "warm_start": {"problems": "p"}}},
    "settings": {
        "s": {
            "model": "m",
            "problems": "p",
            "trainer": {"steps": 5, "save_every": 2},
            "evaluation": {"benchmarks": ["p"]},
        }
    },
    "methods": {"grpo": {"advantage": "grpo", "surrogate": "ppo_clip"}},
    "tables": {
        "t": {"kind": "scores", "title": "T", "settings": ["s"], "methods": ["grpo"], "seeds": [0]}
    },
}


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capsys):
    """Function that runs `aent evaluate`, in a folder without results; status and what it said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(STUDY))

    def run(*options):
        status = main(["evaluate", "--config", "config.yaml", "--setting", "s", *options])
        return status, capsys.readouterr().err

    return run


def test_steps_of_the_base_model_are_refused(evaluate):
    status, said = evaluate("--steps", "2", "4")
    assert status == 2
    assert "--steps 2 4 are checkpoints of a run: add its --method" in said


def test_without_steps_all_checkpoints_of_a_run_are_scored(evaluate):
    status, said = evaluate("--method", "grpo")
    assert status == 2
    steps = load("config.yaml").settings["s"].trainer.checkpoint_steps
    assert steps == [2, 4, 5]
    assert all(f"results/s/grpo/seed0/checkpoints/step-{step}, " in said for step in steps)
    assert "step-0" not in said
    assert "step-2" not in evaluate("--method", "grpo", "--steps", "4")[1]


def test_the_base_model_is_scored_without_a_method(evaluate):
    assert "not there yet: results/models/m, results/problems/p.jsonl" in evaluate()[1]
