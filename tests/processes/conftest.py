"""A model that ends its answers early, and rewards that depend on the text alone."""

import pytest
import torch

from aent.config.data import SyntheticProblems
from aent.config.model import ScratchModel
from aent.models import build_tokenizer, create_model, save_model
from aent.problems import load_problems
from aent.problems.record import write_problems
from aent.rewards import Verdict


class ByLength:
    """Scores a completion by the parity of its length."""

    def __init__(self, workers):
        """Take what the verifier takes; it needs no workers."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def score(self, completions, answers):
        return [
            Verdict(score=float(len(text) % 2), parsed=bool(text), timed_out=False, extracted=None)
            for text in completions
        ]


@pytest.fixture(scope="session")
def scorer():
    """Stands in for the verifier."""
    return ByLength


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Model directory and problems file."""
    folder = tmp_path_factory.mktemp("inputs")
    config = ScratchModel.model_validate(
        {"kind": "scratch", "hidden": 16, "intermediate": 16, "warm_start": {"problems": "p"}}
    )
    model = create_model(config)
    with torch.no_grad():  # a fresh model hardly ever ends a response, and would earn nothing
        direction = torch.randn(16, generator=torch.Generator().manual_seed(2))
        model.get_input_embeddings().weight[model.config.eos_token_id] = 2 * direction
    save_model(model, build_tokenizer(config.vocabulary), folder / "model")
    problems = load_problems(SyntheticProblems(kind="synthetic", count=60))
    write_problems(folder / "problems.jsonl", problems)
    return folder / "model", folder / "problems.jsonl"
