"""A tiny model and a few problems on disk."""

import pytest

from aent.config.data import SyntheticProblems
from aent.config.model import ScratchModel
from aent.models import build_tokenizer, create_model, save_model
from aent.problems import load_problems
from aent.problems.record import write_problems


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A fresh tiny model; what it says is noise, but it says it."""
    config = ScratchModel.model_validate(
        {"kind": "scratch", "hidden": 16, "intermediate": 16, "warm_start": {"problems": "p"}}
    )
    folder = tmp_path_factory.mktemp("model") / "m"
    save_model(create_model(config), build_tokenizer(config.vocabulary), folder)
    return folder


@pytest.fixture(scope="module")
def problem_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("problems") / "b.jsonl"
    write_problems(path, load_problems(SyntheticProblems(kind="synthetic", count=12)))
    return path
