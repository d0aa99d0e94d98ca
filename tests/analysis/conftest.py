"""Synthetic results: one setting with two benchmarks, made of numbers that are easy to add up."""

from types import SimpleNamespace

import pandas as pd
import pytest

from aent.analysis.scores import COLUMNS
from aent.config import parse

PPO = {"advantage": "grpo", "surrogate": "ppo_clip"}
ADAPTIVE = {
    "kind": "adaptive",
    "initial": 0.02,
    "low": 0.2,
    "high": 0.3,
    "rate": 0.1,
    "min": 0.01,
    "max": 0.05,
    "warmup_steps": 2,
}


def config_data():
    seeds = [0, 1, 2]
    runs = {"settings": ["lab"], "seeds": seeds, "title": "A title"}
    three = ["grpo", "entreg", "aent"]
    return {
        "problems": {
            "train": {"kind": "synthetic"},
            "valid": {"kind": "synthetic", "split": "validation"},
            "easy": {"kind": "synthetic", "split": "test", "title": "Easy & small"},
            "hard": {"kind": "synthetic", "split": "test"},
        },
        "models": {"tiny": {"kind": "scratch", "warm_start": {"problems": "train"}}},
        "settings": {
            "lab": {
                "title": "Lab_1",
                "model": "tiny",
                "problems": "train",
                "trainer": {"steps": 20, "save_every": 10, "threads": 2},
                "evaluation": {"benchmarks": ["easy", "hard"], "validation": ["valid"]},
            }
        },
        "methods": {
            "grpo": {**PPO, "title": "GRPO"},
            "entreg": {
                **PPO,
                "title": "EntReg",
                "entropy": {"space": "full", "coefficient": {"kind": "constant", "value": 0.01}},
            },
            "aent": {
                **PPO,
                "title": "AEnt",
                "entropy": {
                    "space": {"kind": "rank_fraction", "drop": 0.33},
                    "coefficient": ADAPTIVE,
                },
            },
        },
        "sweeps": {
            "aent-drop": {
                "base": "aent",
                "key": "entropy.space.drop",
                "values": [0, 0.25, 0.5],
                "label": "clamping percentage p",
            }
        },
        "tables": {
            "table1": {
                **runs,
                "kind": "scores",
                "methods": three,
                "published": {"lab": {"aent": {"easy": 0.552, "MATH-Hard": 0.5}}},
            },
            "table2": {
                **runs,
                "kind": "time",
                "methods": three,
                "baseline": "grpo",
                "published": {"lab": {"grpo": {"update": 0.234}}},
            },
        },
        "figures": {
            "curves": {
                **runs,
                "kind": "curves",
                "methods": three,
                "metrics": ["score/average", "entropy/clamped", "entropy/coefficient"],
            },
            "sweep": {
                **runs,
                "kind": "sweep",
                "methods": ["grpo", "aent-drop"],
                "sweep": "aent-drop",
                "baseline": "grpo",
            },
        },
        "claims": {
            "settings": ["lab"],
            "baseline": "grpo",
            "plain": "entreg",
            "proposed": "aent",
            "sweep": "aent-drop",
            "seeds": seeds,
        },
        "mdp": {"actions": 200, "optimal": [10, 5], "decoys": 5, "optimal_ranks": [4, 40]},
    }


def score_rows(method, seed, curve, setting="lab"):
    """Scores of a run: {step: (easy, hard, valid)}."""
    rows = []
    for step, values in curve.items():
        for name, value in zip(["easy", "hard", "valid"], values, strict=True):
            split = "validation" if name == "valid" else "test"
            head = [setting, method, seed, step, name, split]
            rows.append([*head, value, 0.01, min(1.0, value + 0.1), 0.01, 100, 4])
    return rows


def score_frame(rows):
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def scores_of(runs):
    """{(method, seed): {step: average}} as scores, each benchmark at the average."""
    rows = []
    for (method, seed), curve in runs.items():
        rows += score_rows(method, seed, {step: (v, v, v) for step, v in curve.items()})
    return score_frame(rows)


def metrics_of(runs, steps=20, **defaults):
    """{(method, seed): {metric: value or list of values}} as metrics."""
    frames = []
    for (method, seed), given in runs.items():
        columns = {"time/step_s": 36.0, "time/update_s": 18.0, **defaults, **given}
        frame = pd.DataFrame({"step": range(1, steps + 1)})
        for name, value in columns.items():
            frame[name] = value
        frame.insert(0, "setting", "lab")
        frame.insert(1, "method", method)
        frame.insert(2, "seed", seed)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="session")
def synthetic():
    """The helpers of this file."""
    return SimpleNamespace(
        config_data=config_data,
        score_rows=score_rows,
        score_frame=score_frame,
        scores_of=scores_of,
        metrics_of=metrics_of,
    )


@pytest.fixture
def config():
    return parse(config_data())
