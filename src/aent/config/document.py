"""What people and editors read about the configuration, exported from the models.

`python -m aent.config.document` writes workflow/schemas/config.schema.json and config/README.md
below the current folder, `make docs` calls it. A test compares the files with the models.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from aent.config import Config, Method

Schema = dict[str, Any]

SCHEMA_PATH = Path("workflow/schemas/config.schema.json")
README_PATH = Path("config/README.md")
NAME = "NAME"  # stands for a name that the user chooses

INTRODUCTION = """\
# Configuration

One YAML file describes a whole reproduction: `config.yaml` is the laptop default, `paper.yaml` has
the paper's settings. Another file replaces the default one, a single value changes it:

    snakemake --cores all --configfile config/paper.yaml
    snakemake --cores all --config results=elsewhere

Everything is checked before anything runs. A wrong key, type or value stops with a line that names
the key, what was given and what is allowed. Defaults live in the models of `aent.config`, and this
page is exported from them (`make docs`); editors that know YAML schemas complete and check the file
by its first line.

- Problem sets, models, settings and methods have names, which become folders below `results`.
- A *setting* is what methods have in common: model, data, trainer, evaluation.
- A *method* is a composition: advantage estimator, surrogate, entropy term (token space and rule of
  the coefficient), perhaps a critic. `advantage: grpo` is short for `advantage: {kind: grpo}`.
- A setting may change single keys of a method (`settings.NAME.methods`); changing a `kind` replaces
  the part as a whole.
- A *sweep* makes methods that differ in one key, named by its value: `aent-drop` over `0.25` makes
  `aent-drop0.25`. Wherever an experiment lists methods, the sweep's name stands for all of them.
- Tables, figures and claims say which settings, methods and seeds they need. A run that several of
  them need is trained once. `aent runs` lists the runs.

A change trains again what depends on it and nothing else: a title only redraws, an evaluation key
only evaluates again, a method's key trains that method's runs.

## On a Slurm cluster

What a site edits stands in `workflow/profiles/slurm/config.yaml`, three lines marked with `site`:

| line | value |
|---|---|
| `slurm_partition` | the partition that has the GPUs |
| `slurm_account` | the account that is charged; `""` where there are none |
| `jobs` | how many jobs may be in the queue at a time |

What a training job needs is a setting's `trainer.gpus`, `nodes`, `threads`, `memory_mb` and
`runtime_minutes`. An evaluation job is on one node with the trainer's `threads`; `gpus`,
`memory_mb` and `runtime_minutes` below `evaluation` are its own, and `checkpoints_per_job` says how
much it does. [docs/cluster.md](../docs/cluster.md) has the rest.

"""


def json_schema() -> Schema:
    """The JSON schema of a configuration file (draft 2020-12)."""
    _, schema = models_json_schema([(Config, "validation"), (Method, "validation")])
    definitions = schema["$defs"]
    config = definitions.pop("Config")
    # The configuration keeps methods as plain data, because a setting may change parts of one.
    [by_name] = config["properties"]["methods"]["patternProperties"].values()
    by_name.clear()
    by_name["$ref"] = "#/$defs/Method"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **config,
        "title": "AEnt reproduction",
        "$defs": definitions,
    }


def readme() -> str:
    """config/README.md: every key with its type, default and meaning."""
    schema = json_schema()
    models = schema["$defs"]
    parts = [INTRODUCTION, "## Keys at the top\n\n", _table(schema, models)]
    for path, part in _sections(schema):
        parts.append(f"\n### `{path}`{_kind(part)}\n\n{_text(part, models)}\n\n")
        parts.append(_table(part, models))
    return "".join(parts)


def _sections(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Every model once, at the first path that leads to it, breadth first: path and schema."""
    seen: set[str] = set()
    waiting = deque([("", schema)])
    while waiting:
        path, part = waiting.popleft()
        for key, value in part.get("properties", {}).items():
            for below, name in _references(f"{path}.{key}".lstrip("."), value):
                if name not in seen:
                    seen.add(name)
                    found = schema["$defs"][name]
                    yield below, found
                    waiting.append((below, found))


def _references(path: str, value: Schema) -> Iterator[tuple[str, str]]:
    """Models that a key's value may be: path and name of each."""
    if "$ref" in value:
        yield path, value["$ref"].rsplit("/", 1)[-1]
    for part in [*value.get("anyOf", []), *value.get("oneOf", [])]:
        yield from _references(path, part)
    for part in _by_name(value):
        yield from _references(f"{path}.{NAME}", part)


def _by_name(value: Schema) -> list[Schema]:
    parts = list(value.get("patternProperties", {}).values())
    if isinstance(value.get("additionalProperties"), dict):
        parts.append(value["additionalProperties"])
    return parts


def _kind(part: Schema) -> str:
    kind = part["properties"].get("kind", {}).get("const")
    return f", kind `{kind}`" if kind else ""


def _table(part: Schema, models: dict[str, Schema]) -> str:
    rows = ["| key | type | default | meaning |\n|---|---|---|---|\n"]
    required = part.get("required", [])
    for key, value in part["properties"].items():
        if key == "kind":
            continue
        default = "required" if key in required else _default(value)
        rows.append(f"| `{key}` | {_type(value)} | {default} | {_text(value, models)} |\n")
    return "".join(rows) if len(rows) > 1 else "No keys of its own.\n"


def _text(value: Schema, models: dict[str, Schema]) -> str:
    """The description; pydantic leaves out one that repeats the model's own."""
    if "$ref" in value and "description" not in value:
        value = models[value["$ref"].rsplit("/", 1)[-1]]
    return " ".join(value.get("description", "").split()).replace("|", "\\|")


def _default(value: Schema) -> str:
    default = value.get("default")
    if isinstance(default, dict) and default:
        kind = default.get("kind")
        return f"`{kind}`, see there" if kind else "see there"
    return "" if default is None else f"`{json.dumps(default)}`"


def _type(value: Schema) -> str:
    if choices := value.get("enum", [value["const"]] if "const" in value else []):
        return " or ".join(f"`{item}`" for item in choices)
    if "$ref" in value:
        return "keys below"
    options = value.get("anyOf") or value.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(_type(option) for option in options))
    if value.get("type") == "array":
        return _array(value)
    if value.get("type") == "object":
        parts = _by_name(value)
        return f"by name: {_type(parts[0])}" if parts else "keys"
    return _scalar(value)


def _array(value: Schema) -> str:
    if "prefixItems" in value:
        return f"list of {len(value['prefixItems'])}: {_type(value['prefixItems'][0])}"
    least = value.get("minItems")
    return f"list of {_type(value['items'])}" + (f", at least {least}" if least else "")


def _scalar(value: Schema) -> str:
    if value.get("format") == "path":
        return "path"
    names = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}
    text = names.get(value.get("type", ""), value.get("type", "anything"))
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {value[key]:g}" for key, sign in signs.items() if key in value]
    return f"{text} {', '.join(bounds)}".rstrip()


def main() -> None:
    """Write both files."""
    for path, text in {
        SCHEMA_PATH: json.dumps(json_schema(), indent=2) + "\n",
        README_PATH: readme(),
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
