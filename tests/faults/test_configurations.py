"""Mutated configurations: accepted and resolved, or refused with the key; never a traceback."""

from __future__ import annotations

import copy
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from dry_run import dry_run
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from aent.config import Config, ConfigError, parse
from aent.inputs import check_inputs

ROOT = Path(__file__).parents[2]


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def base(name: str) -> dict[str, Any]:
    """One of our configurations. YAML's anchors share parts; a change must not show elsewhere."""
    data = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())
    return yaml.safe_load(yaml.dump(data, Dumper=_NoAliases))


BASES = {name: base(name) for name in ("config", "paper")}
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

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

Keys = tuple[Any, ...]
"""Keys of dictionaries that lead to a place; the places of lists between them are left out."""
KINDS = ["value", "number", "scale", "remove", "rename", "add", "refer", "copy", "repeat"]


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


@dataclass
class Case:
    """A mutated configuration and what became of it."""

    base: str
    data: dict[str, Any]
    changes: list[list[Keys]]
    """For each change the paths of which a message may name one."""
    refused: str | None = None
    """The message; None when the configuration was accepted."""


@st.composite
def mutated(draw: st.DrawFn) -> Case:
    """A base configuration after one change, or up to three."""
    name = draw(st.sampled_from(sorted(BASES)))
    data = copy.deepcopy(BASES[name])
    count = draw(st.sampled_from([1, 1, 1, 2, 3]))
    return Case(name, data, [mutate(draw, data) for _ in range(count)])


def mutate(draw: st.DrawFn, data: dict[str, Any]) -> list[Keys]:
    """Change one place of the tree; returns the paths of which a message may name one."""
    *parents, last = draw(st.sampled_from(places(data) or [("results",)]))
    part: Any = data
    path: Keys = ()
    for key in parents:
        path = (*path, key) if isinstance(part, dict) else path
        part = part[key]
    touched = [path if isinstance(part, list) else (*path, last)]
    touched += [(*path, name) for name in referable(part, last, top=not path)]
    kind = draw(st.sampled_from(KINDS))
    if kind == "remove" and last in (part if isinstance(part, dict) else range(len(part))):
        del part[last]
    elif kind == "rename" and isinstance(part, dict):
        key = draw(st.sampled_from(NASTY_KEYS))
        part[key] = part.pop(last, None)
        touched.append((*path, key))
    elif kind == "add" and isinstance(part, dict):
        key = draw(st.sampled_from(NASTY_KEYS))
        part[key] = draw(st.sampled_from(NASTY_VALUES))
        touched = [(*path, key)]
    elif kind == "refer" and isinstance(part, dict | list):
        part[last] = draw(st.sampled_from(texts(data) or ["x"]))
    elif kind == "copy" and isinstance(part, dict):
        key = draw(st.sampled_from(["copy", "base", "figure1"]))
        part[key] = copy.deepcopy(part.get(last))
        touched = [(*path, key)]
    elif kind == "repeat" and isinstance(part, list):
        part.append(part[last])
    elif kind == "scale" and isinstance(part[last], int | float):
        part[last] *= draw(st.sampled_from([0.5, 2, 3, 10, -1]))
    elif kind == "number":
        part[last] = draw(st.one_of(st.integers(-5, 2000), st.floats(0, 1), st.floats()))
    else:
        part[last] = copy.deepcopy(draw(st.sampled_from(NASTY_VALUES)))
    # Of another kind other keys are asked, and the kind stands among the keys that lead to them.
    return [*touched, (*path, part["kind"])] if last == "kind" and last in part else touched


def referable(part: Any, last: Any, top: bool) -> list[Any]:
    """Names that others may refer to in vain after a change of this place.

    Messages then tell of the others. It is so with an entry of a figure's methods, among which its
    `baseline` must be, and with what stands below a key at the top: a figure names a sweep, when
    `sweeps` is gone.
    """
    if isinstance(part, list):
        return [part[last]] if isinstance(part[last], str) else []
    return list(part[last]) if top and isinstance(part.get(last), dict) else []


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


def names_its_key(message: str, changes: list[list[Keys]]) -> bool:
    """Whether each line begins with a key at the top, and one of them has a changed key as a word.

    The value that was given and the names that are allowed do not count.
    """
    lines = [line.removeprefix("config: ") for line in message.splitlines()]
    lines = [re.sub(r" \(given: .*\)$|; allowed are .*", "", line) for line in lines]
    paths = [[spelled(key) for key in path] for paths in changes for path in paths]
    head = re.compile("|".join(map(re.escape, [*Config.model_fields, *(p[0] for p in paths)])))
    words = [re.compile(rf"(?<![\w-]){re.escape(path[-1])}(?![\w-])") for path in paths]
    return all(head.match(line) for line in lines) and any(
        word.search(line) for word in words for line in lines
    )


def spelled(key: Any) -> str:
    """A key as messages spell it: one that is no printable text as Python does."""
    return key[:80] if isinstance(key, str) and key and key.isprintable() else repr(key)[:80]


def fuzz(count: int) -> list[Case]:
    """Check this many mutated configurations and, where accepted, what rules ask of them."""
    cases: list[Case] = []

    @seed(0)
    @settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(mutated())
    def attempt(case: Case) -> None:
        cases.append(case)
        try:
            config = parse(case.data)
            check_inputs(config)
        except ConfigError as error:
            case.refused = str(error)
        else:
            resolve(config)

    attempt()
    return cases


def dry_run_all(spawn: Any, cases: list[Case], folder: Path) -> None:
    """Ask `snakemake -n` about each: it resolves, or says in other places' words what is wrong."""
    for number, case in enumerate(cases):
        configuration, output = folder / f"{number}.yaml", folder / f"{number}.txt"
        configuration.write_text(yaml.safe_dump(case.data, sort_keys=False))
        process = spawn.Process(target=dry_run, args=(configuration, output))
        process.start()
        process.join()
        said = output.read_text()
        assert "Traceback" not in said, (configuration, said)
        assert process.exitcode == (1 if case.refused else 0), (configuration, said)
        if case.refused:
            first = case.refused.splitlines()[0].removeprefix("config: ")
            assert first in said, (configuration, said)


def judge(cases: list[Case]) -> tuple[list[Case], list[Case]]:
    """Accepted and refused ones, after a look at the messages."""
    accepted = [case for case in cases if case.refused is None]
    refused = [case for case in cases if case.refused is not None]
    assert [case for case in refused if not names_its_key(case.refused, case.changes)] == []
    return accepted, refused


def test_mutated_configurations(spawn, tmp_path):
    accepted, refused = judge(fuzz(300))
    assert {case.base for case in accepted} == {case.base for case in refused} == set(BASES)
    dry_run_all(spawn, accepted[::10] + refused[::20], tmp_path)


@pytest.mark.faults
@pytest.mark.timeout(7200)
def test_two_thousand_mutated_configurations(spawn, tmp_path):
    accepted, refused = judge(fuzz(2000))
    assert len(accepted) + len(refused) >= 2000
    print(f"accepted {Counter(case.base for case in accepted)}", end=", ")
    print(f"refused {Counter(case.base for case in refused)}")
    dry_run_all(spawn, accepted + refused[::20], tmp_path)


@pytest.mark.parametrize("name", NASTY_NAMES[: NASTY_NAMES.index("base")])
def test_a_name_is_plain(name):
    for part in ("problems", "models", "settings", "methods", "tables", "figures", "sweeps"):
        data = copy.deepcopy(BASES["config"])
        data[part][name] = copy.deepcopy(next(iter(data[part].values())))
        with pytest.raises(ConfigError, match=part):
            parse(data)


@pytest.mark.parametrize("key", ["", "a\n", "\ud800", None, 1, 2.5, True])
@pytest.mark.parametrize("path", [(), ("figures",), ("settings", "laptop", "trainer")])
def test_a_key_is_text_that_can_be_printed(path, key):
    data = part = copy.deepcopy(BASES["config"])
    for name in path:
        part = part[name]
    part[key] = None
    with pytest.raises(ConfigError) as refused:
        parse(data)
    assert str(refused.value).startswith(f"config: {'.'.join([*path, repr(key)])}: a key must be")


def test_a_kind_that_holds_a_line_break_is_told_on_one_line():
    data = copy.deepcopy(BASES["config"])
    data["problems"]["train"]["kind"] = "a\nb"
    with pytest.raises(ConfigError) as refused:
        parse(data)
    [line] = str(refused.value).splitlines()
    assert line.startswith("config: problems.train: ")
    assert r"'a\nb'" in line.replace("\\\\", "\\")


def test_a_long_key_is_cut():
    data = copy.deepcopy(BASES["config"])
    data["settings"]["laptop"]["x" * 5000] = 1
    with pytest.raises(ConfigError) as refused:
        parse(data)
    assert str(refused.value).startswith(f"config: settings.laptop.{'x' * 80}: Extra inputs")


@pytest.mark.parametrize(
    "message",
    [
        "",
        "Something is wrong: no idea where",
        "config: Something is wrong with steps: no idea where",
        "config: settings.laptop.trainer: wrong (given: {'steps': 0})",
        "config: settings.laptop.trainer: unknown 'step'; allowed are ['steps']",
        "config: settings.laptop.trainer.warmup_steps: wrong",
        "config: settings.laptop.trainer.steps: wrong\nand more of it",
    ],
)
def test_a_message_without_the_key_is_noticed(message):
    changed = [[("settings", "laptop", "trainer", "steps")]]
    assert not names_its_key(message, changed)
    assert names_its_key("config: settings.laptop.trainer.steps: wrong (given: 0)", changed)
    assert names_its_key("settings.laptop.trainer: steps 0 is wrong", changed)
