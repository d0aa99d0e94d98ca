"""Mutated configurations: accepted and resolved, or refused with the key; never a traceback."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from aent.config import Config, ConfigError, parse
from aent.inputs import check_inputs

ROOT = Path(__file__).parents[2]
BASES = {
    name: yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()) for name in ("config", "paper")
}
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PLANNED = {"config": 20, "paper": 100}
"""Of the accepted ones, each how-many-th goes through Snakemake: seconds each, minutes in all."""

NASTY_NAMES = [
    "", ".", "..", "...", "-x", "--help", "a b", "a/b", "../a", "/a", "a\n", "a\x00", "a;b", "$(a)",
    "`a`", "a{b}", "{", "%s", "a*", "~", "ä", "\ud800", "\u202ea", "x" * 65, "x" * 5000, "base",
    "problems", "summary", "scores.parquet", "con", "a'b", 'a"b', "a\\b", "a&b", "None", "0", "1e5",
]  # fmt: skip
NASTY_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3.5, 10**9, 10**30, -(10**30), 1e-300, 1e300, float("nan"),
    float("inf"), -float("inf"), [], {}, [[]], [None], {"kind": None}, {"kind": "x"}, {"": {}},
    list(range(2000)), ["grpo"] * 300, [0] * 5, "text", *NASTY_NAMES,
]  # fmt: skip
NASTY_KEYS: list[Any] = [*NASTY_NAMES, None, 1, 2.5, True, "kind", "steps", "extra"]


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values."""
    inner = data.items() if isinstance(data, dict) else enumerate(data)
    found = []
    for key, value in inner:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
    return found


def texts(data: Any) -> list[str]:
    """Names that a reference could be exchanged for."""
    return [str(path[-1]) for path in places(data) if len(path) == 2]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A base configuration after one change, or up to three."""
    name = draw(st.sampled_from(sorted(BASES)))
    # YAML's anchors share parts; a change here must not show elsewhere.
    data = yaml.safe_load(yaml.dump(BASES[name], Dumper=_NoAliases))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        mutate(draw, data)
    return name, data


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def mutate(draw: st.DrawFn, data: dict[str, Any]) -> None:
    """Change one place of the tree."""
    *parents, last = draw(st.sampled_from(places(data) or [("results",)]))
    part: Any = data
    for key in parents:
        part = part[key]
    kind = draw(st.sampled_from(["value", "number", "remove", "rename", "add", "refer", "copy"]))
    if kind == "remove" and last in (part if isinstance(part, dict) else range(len(part))):
        del part[last]
    elif kind == "rename" and isinstance(part, dict):
        part[draw(st.sampled_from(NASTY_KEYS))] = part.pop(last, None)
    elif kind == "add" and isinstance(part, dict):
        part[draw(st.sampled_from(NASTY_KEYS))] = draw(st.sampled_from(NASTY_VALUES))
    elif kind == "refer" and isinstance(part, dict | list):
        part[last] = draw(st.sampled_from(texts(data) or ["x"]))
    elif kind == "copy" and isinstance(part, dict):
        part[draw(st.sampled_from(["copy", "base", "figure1"]))] = copy.deepcopy(part.get(last))
    elif kind == "number":
        part[last] = draw(st.one_of(st.integers(-5, 2000), st.floats(0, 1), st.floats()))
    else:
        part[last] = copy.deepcopy(draw(st.sampled_from(NASTY_VALUES)))


def resolve(config: Config) -> None:
    """What the rules ask of a configuration, and every name that becomes part of a path."""
    for run in config.runs():
        assert all(SAFE.fullmatch(name) for name in (run.setting_name, run.method_name))
        assert 1 <= len(run.setting.trainer.checkpoint_steps) <= 1000
        assert run.recipe
        assert re.fullmatch(r"[0-9a-f]{12}", run.hash)
    names = [config.problems, config.models, config.settings, config.methods, config.sweeps]
    assert all(SAFE.fullmatch(name) for part in names for name in part)
    assert all(SAFE.fullmatch(name) for part in (config.tables, config.figures) for name in part)
    assert re.fullmatch(r"/?[A-Za-z0-9._][A-Za-z0-9._/-]*", str(config.results))


def names_a_key(message: str) -> bool:
    """Each line begins with the place: a key, or a method or sweep in a setting."""
    return all(re.match(r"(config: )?[^\s:][^:]*: ", line) for line in message.splitlines())


def plan(data: dict[str, Any], folder: Path) -> None:
    """The DAG, as `snakemake --dry-run` resolves it, in this process."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import (
        ConfigSettings,
        DAGSettings,
        OutputSettings,
        Quietness,
        ResourceSettings,
    )

    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    with (
        contextlib.redirect_stderr(io.StringIO()),
        SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api,
    ):
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(configfiles=[folder / "config.yaml"]),
            snakefile=ROOT / "Snakefile",
            workdir=folder,
        )
        workflow.dag(DAGSettings()).execute_workflow(executor="dryrun")


def fuzz(count: int, folder: Path) -> Counter[str]:
    """Try this many configurations; returns how many were accepted, planned and refused."""
    seen: Counter[str] = Counter()

    @seed(0)
    @settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(mutated())
    def attempt(case: tuple[str, dict[str, Any]]) -> None:
        name, data = case
        try:
            config = parse(data)
            check_inputs(config)
        except ConfigError as error:
            seen["refused"] += 1
            seen["nameless"] += not names_a_key(str(error))
            return
        seen["accepted"] += 1
        resolve(config)
        if seen[name] % PLANNED[name] == 0:
            plan(data, folder)
            seen["planned"] += 1
        seen[name] += 1

    here = Path.cwd()
    os.chdir(folder)
    try:
        attempt()
    finally:
        os.chdir(here)
    print(dict(seen))
    assert not seen["nameless"]
    return seen


def test_mutated_configurations(tmp_path):
    seen = fuzz(300, tmp_path)
    assert min(seen["accepted"], seen["refused"], seen["planned"]) > 0
    assert not seen["nameless"]


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_two_thousand_mutated_configurations(tmp_path):
    seen = fuzz(2000, tmp_path)
    assert seen["accepted"] + seen["refused"] >= 2000


@pytest.mark.parametrize("name", NASTY_NAMES[: NASTY_NAMES.index("base")])
def test_a_name_is_plain(name):
    for part in ("problems", "models", "settings", "methods", "tables", "figures", "sweeps"):
        data = copy.deepcopy(BASES["config"])
        data[part][name] = copy.deepcopy(next(iter(data[part].values())))
        with pytest.raises(ConfigError, match=part):
            parse(data)
