"""Sweeps: generated methods, and the point that the base method holds already."""

import copy

import pytest

from aent.config import ConfigError, parse

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
    assert config.points_of("aent-drop") == {"aent-drop0": 0, "aent": 0.33, "aent-drop0.9": 0.9}
    assert [run.method_name for run in config.runs()] == ["aent", "aent-drop0", "aent-drop0.9"]
    assert config.method("s", "aent-drop0.9").entropy.space.drop == 0.9
    assert config.method("s", "aent-drop0.9").entropy.coefficient.rate == 1


def test_not_where_a_setting_changes_it():
    changes = {"aent": {"entropy": {"space": {"drop": 0.25}}}}
    config = parse(_changed("settings/s/methods", changes))
    assert list(config.points_of("aent-drop")) == ["aent-drop0", "aent-drop0.33", "aent-drop0.9"]
    assert config.method("s", "aent").entropy.space.drop == 0.25
    assert config.method("s", "aent-drop0.33").entropy.space.drop == 0.33


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
