"""What trains a run again, and what does not."""

from __future__ import annotations

import copy

import pytest

from aent.config import parse

CONFIG = {
    "problems": {"train": {"kind": "synthetic"}},
    "models": {"tiny": {"kind": "scratch", "warm_start": {"problems": "train"}}},
    "settings": {
        "toy": {"model": "tiny", "problems": "train", "evaluation": {"benchmarks": ["train"]}}
    },
    "methods": {"grpo": {"advantage": "grpo", "surrogate": "ppo_clip"}},
}


def changed(path: str, value):
    data = copy.deepcopy(CONFIG)
    part = data
    *parents, last = path.split("/")
    for key in parents:
        part = part.setdefault(key, {})
    part[last] = value
    return parse(data).run("toy", "grpo", 0)


ORIGINAL = parse(CONFIG).run("toy", "grpo", 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("settings/toy/title", "Toy"),
        ("methods/grpo/title", "GRPO"),
        ("settings/toy/evaluation/samples", 8),
        ("settings/toy/trainer/runtime_minutes", 600),
        ("settings/toy/trainer/memory_mb", 4000),
        ("settings/toy/trainer/state_every", 1),
    ],
)
def test_same_training(path, value):
    run = changed(path, value)
    assert run != ORIGINAL
    assert run.recipe == ORIGINAL.recipe
    assert run.hash == ORIGINAL.hash


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("settings/toy/trainer/learning_rate", 1e-3),
        ("settings/toy/trainer/save_every", 40),
        ("settings/toy/rollout/temperature", 0.9),
        ("settings/toy/prompt/suffix", "!"),
        ("methods/grpo/advantage", "rloo"),
        ("settings/toy/methods/grpo", {"surrogate": {"kind": "ppo_clip", "clip_high": 0.3}}),
    ],
)
def test_other_training(path, value):
    assert changed(path, value).hash != ORIGINAL.hash


def test_seeds_differ():
    assert parse(CONFIG).run("toy", "grpo", 1).hash != ORIGINAL.hash
