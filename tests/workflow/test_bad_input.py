"""Bad input stops before anything runs, names the place, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from aent.checksums import write_checksums
from aent.config import ConfigError, PretrainedModel, load, parse
from aent.config.model import ScratchModel
from aent.fetch import fetch_model
from aent.inputs import check_inputs
from aent.models import (
    ModelError,
    build_tokenizer,
    check_tokenizer,
    create_model,
    load_model,
    load_tokenizer,
    save_model,
)

ROOT = Path(__file__).parents[2]
TOY = yaml.safe_load((ROOT / "tests/config.yaml").read_text())


def changed(path: str, value: Any) -> dict[str, Any]:
    """The toy configuration with the value at a path such as `methods/aent/title` replaced."""
    data = json.loads(json.dumps(TOY))  # YAML's aliases would change both settings
    part = data
    *parents, last = path.split("/")
    for key in parents:
        part = part.setdefault(key, {})
    part[last] = value
    return data


def pretrained(path: str) -> dict[str, Any]:
    return changed("models/tiny", {"kind": "pretrained", "path": path})


def problem_file(path: str) -> dict[str, Any]:
    return changed("problems/easy", {"kind": "file", "path": path})


BAD = {
    "unknown method": (
        changed("tables/table1/methods", ["grpo", "gpro"]),
        ["tables.table1.methods", "unknown 'gpro'", "'grpo'"],
    ),
    "wrong key": (
        changed("settings/toy/trainer/learning_rat", 1),
        ["settings.toy.trainer.learning_rat", "not permitted", "(given: 1)"],
    ),
    "wrong type": (
        changed("settings/toy/trainer/steps", "many"),
        ["settings.toy.trainer.steps", "integer", "(given: 'many')"],
    ),
    "box with min above max": (
        changed("methods/aent/entropy/coefficient/min", 0.5),
        ["methods.aent in settings.toy", "entropy.coefficient", "min 0.5 exceeds max 0.045"],
    ),
    "clamping percentage of one": (
        changed("methods/aent/entropy/space/drop", 1.0),
        ["methods.aent in settings.toy", "entropy.space", "drop", "less than 1", "(given: 1.0)"],
    ),
    "negative clamping percentage in a sweep": (
        changed("sweeps/aent-drop/values", [-0.1]),
        [
            "sweeps.aent-drop (base aent, key entropy.space.drop, values -0.1)",
            "drop",
            "greater than or equal to 0",
        ],
    ),
    "missing problem file": (
        problem_file("absent.jsonl"),
        ["problems.easy.path", "absent.jsonl"],
    ),
    "empty problem file": (
        problem_file("nothing.jsonl"),
        ["problems.easy.path", "nothing.jsonl", "empty"],
    ),
    "record without an answer": (
        problem_file("unanswered.jsonl"),
        ["problems.easy.path", "unanswered.jsonl", "answer", "2"],
    ),
    "columns that are not there": (
        changed(
            "problems/easy",
            {"kind": "file", "path": "unanswered.jsonl", "columns": {"problem": "question"}},
        ),
        ["problems.easy.path", "no column 'question' for problem", "'problem', 'answer'", "pin"],
    ),
    "missing model directory": (
        pretrained("./absent"),
        ["models.tiny.path", "./absent", "no such directory"],
    ),
    "model directory without a model": (
        pretrained("./folder"),
        ["models.tiny.path", "./folder", "config.json"],
    ),
}


BAD["tokenizer without a chat template"] = (
    changed("settings/toy/prompt", {"chat": True}) | {"models": pretrained("./model")["models"]},
    ["models.tiny.path", "./model", "no chat template", "set chat: false"],
)

BAD["tokenizer without a pad token"] = (
    pretrained("./padless"),
    ["models.tiny.path", "./padless", "no pad token", "pad_token: '<eos>'"],
)
BAD["pad token that is none"] = (
    changed("models/tiny", {"kind": "pretrained", "path": "./padless", "pad_token": "<none>"}),
    ["models.tiny.path", "./padless", "'<none>' is not in", "'<eos>' is"],
)
BAD["GPUs that do not divide the batch"] = (
    changed("settings/toy/trainer", {"device": "cuda", "gpus": 3, "prompts": 8, "minibatches": 2}),
    ["settings.toy.trainer", "3 processes (gpus) times minibatches 2 do not divide prompts 8"],
)

# One of each kind through Snakemake, which takes seconds to start; all of them in this process.
THROUGH_SNAKEMAKE = ["unknown method", "box with min above max", "record without an answer"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the files that the bad configurations name."""
    (tmp_path / "nothing.jsonl").write_text("")
    records = [{"problem": "1 + 1", "answer": "2"}, {"problem": "1 + 2"}]
    (tmp_path / "unanswered.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "folder").mkdir()
    scratch = ScratchModel.model_validate(TOY["models"]["tiny"])
    save_model(create_model(scratch), build_tokenizer(scratch.vocabulary), tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "padless")
    backend = build_tokenizer(scratch.vocabulary).backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    tokenizer.save_pretrained(tmp_path / "padless")
    (tmp_path / "padless/checksums.json").unlink()
    write_checksums(tmp_path / "padless")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", BAD)
def test_message_names_the_place(name, folder):
    data, expected = BAD[name]
    with pytest.raises(ConfigError) as caught:
        check_inputs(parse(data))
    for text in expected:
        assert text in str(caught.value)


@pytest.mark.parametrize("name", THROUGH_SNAKEMAKE)
def test_stops_before_anything_runs(name, snakemake, folder):
    data, expected = BAD[name]
    (folder / "bad.yaml").write_text(yaml.safe_dump(data))
    done = snakemake("--cores", "1", "--configfile", str(folder / "bad.yaml"), folder=folder)
    assert done.returncode != 0
    for text in expected:
        assert text in done.stdout
    assert "Traceback" not in done.stdout
    assert not (folder / "results").exists()


def test_a_name_that_stands_twice_is_refused(snakemake, folder):
    """YAML's readers would keep the last of the two."""
    text = (ROOT / "tests/config.yaml").read_text()
    twice = text.replace("  entreg:\n", "  grpo:\n", 1)
    (folder / "bad.yaml").write_text(twice)
    line = twice[: twice.rindex("  grpo:")].count("\n") + 1
    with pytest.raises(ConfigError, match=rf"'grpo' stands there twice(.|\n)*line {line}"):
        load(folder / "bad.yaml")
    done = snakemake("--dry-run", "--configfile", str(folder / "bad.yaml"), folder=folder)
    assert done.returncode != 0
    assert "bad.yaml: 'grpo' stands there twice" in done.stdout
    assert "Traceback" not in done.stdout


def test_every_problem_of_a_file_is_told_at_once():
    data = changed("settings/toy/trainer/steps", 0)
    data["settings"]["toy"]["rollout"]["temperature"] = 0
    with pytest.raises(ConfigError) as caught:
        parse(data)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "settings.toy.rollout.temperature",
        "settings.toy.trainer.steps",
    ]


def test_good_inputs_pass(folder):
    (folder / "good.jsonl").write_text(json.dumps({"problem": "1 + 1", "answer": "2"}))
    check_inputs(parse(problem_file("good.jsonl")))
    check_inputs(parse(pretrained("owner/name")))  # on the hub: not looked at
    padded = {"kind": "pretrained", "path": "./padless", "pad_token": "<eos>"}
    check_inputs(parse(changed("models/tiny", padded)))


def test_a_named_pad_token_is_the_fetched_models(folder):
    """Whoever opens it later, vLLM too, finds the token there; the source stays as it was."""
    model = PretrainedModel(kind="pretrained", path="./padless", pad_token="<eos>")
    fetch_model(model, folder / "fetched")
    check_tokenizer(folder / "fetched", model, [])
    found = load_tokenizer(folder / "fetched")
    assert (found.pad_token, found.pad_token_id) == ("<eos>", found.eos_token_id)
    load_model(folder / "fetched")  # its checksums hold, the source's too
    load_model(folder / "padless")
    with pytest.raises(ModelError, match="no pad token"):
        load_tokenizer(folder / "padless")
