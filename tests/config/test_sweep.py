"""Sweeps: generated methods, and the point that the base method holds already."""

import copy
from pathlib import Path

import pytest

from aent.config import ConfigError, load, parse

ROOT = Path(__file__).parents[2]
ADAPTIVE = {"kind": "adaptive", "initial": 0.1, "low": 0, "high": 1, "rate": 1, "min": 0, "max": 1}
CONFIG = {
    "problems": {"p": {"kind": "synthetic"}, "t": {"kind": "synthetic", "split": "test"}},
    "models": {"m": {"kind": "scratch", "warm_start": {"problems": "p"}}},
    "settings": {"s": {"model": "m", "problems": "p", "evaluation": {"benchmarks": ["t"]}}},
    "methods": {
        "aent": {
            "advantage": "grpo",
            "surrogate": "ppo_clip",
            "entropy": {
                "space": {"kind": "rank_fraction", "drop": 0.33},
                "coefficient": ADAPTIVE,
            },
        }
    },
    "sweeps": {
        "aent-drop": {"base": "aent", "key": "entropy.space.drop", "values": [0, 0.33, 0.9]}
    },
    "tables": {
        "t": {
            "kind": "scores",
            "title": "T",
            "settings": ["s"],
            "methods": ["aent", "aent-drop"],
            "seeds": [0],
        }
    },
}


def _changed(path, value):
    data = copy.deepcopy(CONFIG)
    part = data
    *parents, last = path.split("/")
    for key in parents:
        part = part.setdefault(key, {})
    part[last] = value
    return data


def test_the_base_methods_own_value_is_the_base_method():
    config = parse(CONFIG)
    points = {"aent-drop0": 0, "aent": 0.33, "aent-drop0.9": 0.9}
    assert config.points_of("aent-drop", "s") == points
    assert [run.method_name for run in config.runs()] == ["aent", "aent-drop0", "aent-drop0.9"]
    assert config.method("s", "aent-drop0.9").entropy.space.drop == 0.9
    assert config.method("s", "aent-drop0.9").entropy.coefficient.rate == 1


def _two_settings():
    """`s` holds 0.33 as it stands below methods, `other` has 0.9 of its own."""
    changes = {"methods": {"aent": {"entropy": {"space": {"drop": 0.9}}}}}
    data = _changed("settings/other", CONFIG["settings"]["s"] | changes)
    data["tables"]["t"]["settings"] = ["s", "other"]
    return data


def test_each_setting_has_the_base_method_at_its_own_value():
    config = parse(_two_settings())
    assert [(run.setting_name, run.method_name) for run in config.runs()] == [
        ("s", "aent"),
        ("s", "aent-drop0"),
        ("s", "aent-drop0.9"),
        ("other", "aent"),
        ("other", "aent-drop0"),
        ("other", "aent-drop0.33"),
    ]
    drops = [run.method.entropy.space.drop for run in config.runs()]
    assert drops == [0.33, 0, 0.9, 0.9, 0, 0.33]
    assert config.points_of("aent-drop", "other") == {
        "aent-drop0": 0,
        "aent-drop0.33": 0.33,
        "aent": 0.9,
    }


def test_a_point_that_is_the_base_method_in_a_setting_has_no_second_name():
    data = _two_settings()
    data["tables"]["t"]["methods"] = ["aent-drop0.9"]
    with pytest.raises(ConfigError) as error:
        parse(data)
    assert str(error.value).splitlines() == [
        "config: tables.t.methods: 'aent-drop0.9' is 'aent' itself in settings.other; name that, "
        "or the sweep 'aent-drop'"
    ]
    data["tables"]["t"]["settings"] = ["s"]
    assert [run.name for run in parse(data).runs()] == ["s/aent-drop0.9/seed0"]
    with pytest.raises(ConfigError, match=r"method: unknown 'aent-drop0\.9'"):
        parse(data).run("other", "aent-drop0.9", 0)


def test_the_papers_percentage_is_on_the_sweep_and_its_run_serves_it():
    config = load(ROOT / "config/paper.yaml")
    assert config.points_of("aent-drop", "a") == {
        "aent-drop0": 0,
        "aent-drop0.15": 0.15,
        "aent": 0.33,
        "aent-drop0.5": 0.5,
        "aent-drop0.75": 0.75,
    }
    counts = dict.fromkeys(config.settings, 0)
    for run in config.runs():
        counts[run.setting_name] += 1
    assert counts == {"a": 30, "b": 15, "c": 9}


@pytest.mark.parametrize("name", ["config", "paper"])
def test_claims_train_nothing_that_tables_and_figures_do_not(name):
    config = load(ROOT / f"config/{name}.yaml")
    assert config.claims.settings == list(config.settings)
    drawn = {run.name for _, part in config.experiments() for run in config.runs_of(part)}
    assert {run.name for run in config.claims_runs()} <= drawn
    first, *others = config.settings
    assert config.claims.sweep_in(first) == "aent-drop"
    assert [config.claims.sweep_in(other) for other in others] == [None] * len(others)


CLAIMS = {
    "settings": ["s", "other"],
    "baseline": "aent",
    "plain": "aent",
    "proposed": "aent",
    "sweep": "aent-drop",
    "seeds": [0, 1],
}


@pytest.mark.parametrize(
    ("changes", "methods"),
    [
        ({}, {"s": 3, "other": 3}),
        ({"sweep_settings": ["s"]}, {"s": 3, "other": 1}),
        ({"sweep": None}, {"s": 1, "other": 1}),
    ],
)
def test_claims_ask_for_the_sweep_where_it_is_judged(changes, methods):
    config = parse(_two_settings() | {"claims": CLAIMS | changes})
    runs = [run.setting_name for run in config.claims_runs()]
    assert {name: runs.count(name) / 2 for name in methods} == methods


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweep_settings": ["s", "far"]}, "['far'] are not among the settings ['s', 'other']"),
        ({"sweep": None, "sweep_settings": ["s"]}, "there is no sweep to judge in them"),
        ({"sweep": "aent-dorp"}, "claims.sweep: unknown 'aent-dorp'; allowed are ['aent-drop']"),
    ],
)
def test_mistakes_in_claims_name_the_key(changes, message):
    with pytest.raises(ConfigError) as error:
        parse(_two_settings() | {"claims": CLAIMS | changes})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sweeps/aent-drop/base", "nobody", "sweeps.aent-drop.base: unknown 'nobody'"),
        ("sweeps/aent-drop/key", "entropy.spaces.drop", "has no 'spaces' on the way"),
        (
            "sweeps/aent-drop/values",
            [1.5],
            "sweeps.aent-drop (base aent, key entropy.space.drop, values 1.5)",
        ),
        ("tables/t/methods", ["aent-dorp"], "tables.t.methods: unknown 'aent-dorp'"),
        ("settings/s/evaluation/validation", ["t"], "in benchmarks and in validation"),
        ("methods/aent/entropy/coefficient", ADAPTIVE | {"min": 2}, "min 2.0 exceeds max 1.0"),
        ("methods/aent/entropy/coefficient", ADAPTIVE | {"initial": 2}, "[min 0.0, max 1.0]"),
    ],
)
def test_mistakes_name_the_key(path, value, message):
    with pytest.raises(ConfigError) as error:
        parse(_changed(path, value))
    assert message in str(error.value)
