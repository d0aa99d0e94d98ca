"""Base models from the hub: a server that refuses like it, and none at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from aent.config import PretrainedModel
from aent.config.data import HubProblems
from aent.fetch import fetch_model
from aent.models import ModelError
from aent.problems import ProblemError, load_problems

REFUSALS = {
    "owner/gated": (403, "GatedRepo"),
    "owner/unpinned": (404, "RevisionNotFound"),
    "owner/absent": (404, "RepoNotFound"),
}


@pytest.fixture
def refusing_hub(serve_hub: Callable[..., None]) -> None:
    """Answers as the hub does where it gives nothing."""

    def refuse(path: str) -> tuple[int, dict[str, str], bytes]:
        status, code = next(
            (refusal for name, refusal in REFUSALS.items() if name in path), (500, "")
        )
        return status, {"X-Error-Code": code, "X-Error-Message": f"no {path}"}, b""

    serve_hub(refuse)


def model(name: str) -> PretrainedModel:
    return PretrainedModel(kind="pretrained", path=name)


@pytest.mark.usefixtures("refusing_hub")
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        (
            "owner/gated",
            r"it is gated: ask for access at https://huggingface.co/owner/gated, .*HF_",
        ),
        (
            "owner/unpinned",
            r"no revision 'main': see https://huggingface.co/owner/unpinned/commits",
        ),
        ("owner/absent", r"none of that name, or it is private: check the id"),
    ],
)
def test_refusals_say_what_to_do(name: str, advice: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"^{name}@main cannot be had .*; .*{advice}"):
        fetch_model(model(name), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_unreachable_hub_says_how_to_do_without(
    tmp_path: Path, hub_at: Callable[[str], None]
) -> None:
    hub_at("http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ModelError, match=r"hf download owner/name .*kind: pretrained, path: DIR"):
        fetch_model(model("owner/name"), tmp_path / "model")


@pytest.mark.usefixtures("refusing_hub")
def test_gated_data_set() -> None:
    config = HubProblems.model_validate({"kind": "hub", "id": "owner/gated"})
    with pytest.raises(ProblemError, match=r"datasets/owner/gated, then log in"):
        load_problems(config)


def test_no_pickle_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = ["config.json", "model.safetensors", "pytorch_model.bin", "model.pt", "model.py"]
    fetched: dict[bool, list[str]] = {}

    def download(name: str, *, allow_patterns: list[str], **_: object) -> None:
        fetched[trusted] = list(filter_repo_objects(held, allow_patterns=allow_patterns))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for trusted in (False, True):
        model = PretrainedModel(
            kind="pretrained", path="owner/name", revision="a" * 40, trust_remote_code=trusted
        )
        with pytest.raises(ModelError):  # nothing has come
            fetch_model(model, tmp_path / "model")
    safe = ["config.json", "model.safetensors"]
    assert fetched == {False: safe, True: [*safe, "model.py"]}
