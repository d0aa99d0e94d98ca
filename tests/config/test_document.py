"""The exported schema and page, against the models they are exported from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from aent.config import Method, load
from aent.config.document import README_PATH, SCHEMA_PATH, json_schema, readme
from aent.config.method import AdaptiveCoefficient
from aent.config.setting import Evaluation, Rollout, Trainer

ROOT = Path(__file__).parents[2]


def test_schema_file_is_up_to_date():
    assert json.loads((ROOT / SCHEMA_PATH).read_text()) == json_schema(), "run `make docs`"


def test_page_is_up_to_date():
    assert (ROOT / README_PATH).read_text() == readme(), "run `make docs`"


@pytest.mark.parametrize("name", ["config/config.yaml", "config/paper.yaml", "tests/config.yaml"])
def test_configurations_pass_the_schema_that_they_name(name):
    path = ROOT / name
    first = path.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (path.parent / first.split("=", 1)[1]).resolve() == ROOT / SCHEMA_PATH
    jsonschema.validate(yaml.safe_load(path.read_text()), json_schema())
    load(path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["methods", "aent", "entropy", "space", "drop"], 1.0),
        (["methods", "aent", "advantage"], "gea"),
        (["settings", "laptop", "trainer", "step"], 3),
        (["models", "tiny", "kind"], "scratched"),
        (["claims", "seeds"], [0]),
    ],
)
def test_schema_finds_what_an_editor_should_mark(path, value):
    data = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    part = data
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json_schema())


@pytest.mark.parametrize("model", [Method, Trainer, Rollout, Evaluation, AdaptiveCoefficient])
def test_page_explains_every_key(model):
    for name, field in model.model_fields.items():
        if name != "kind":
            assert field.description
            assert f"| `{name}` |" in readme()
            assert " ".join(field.description.split()) in readme()


def test_every_key_of_the_schema_is_explained():
    definitions = json_schema()["$defs"]
    for name, model in definitions.items():
        for key, value in model["properties"].items():
            described = "description" in value or "$ref" in value or key == "kind"
            assert described, f"{name}.{key} has no docstring"


def test_page_on_clusters_names_the_keys_that_evaluation_has():
    rows = (ROOT / "docs/cluster.md").read_text().splitlines()
    [row] = [row for row in rows if row.startswith("| evaluation, ")]
    named = re.findall(r"`(\w+)`", row.split("below `evaluation`")[0].split("`sbatch`")[1])
    assert named == ["gpus", "memory_mb", "runtime_minutes"]
    assert set(named) == Evaluation.model_fields.keys() & Trainer.model_fields.keys() - {"samples"}


def test_page_on_processes_starts_as_many_as_the_setting_has():
    text = (ROOT / "docs/processes.md").read_text()
    commands = re.findall(r"--num_processes (\d+) .*--config (\S+) --setting (\w+)", text)
    assert [(path, setting) for _, path, setting in commands] == [("config/paper.yaml", "a")]
    for number, path, setting in commands:
        assert int(number) == load(ROOT / path).settings[setting].trainer.processes
