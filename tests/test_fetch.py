"""Base models from the hub: a server that refuses like it, and none at all."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

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


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does where it gives nothing."""

    def do_GET(self) -> None:
        status, code = next(
            (refusal for name, refusal in REFUSALS.items() if name in self.path), (500, "")
        )
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"no {self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)


@pytest.fixture
def refusing_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _use(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(monkeypatch, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ModelError, match=r"hf download owner/name .*kind: pretrained, path: DIR"):
        fetch_model(model("owner/name"), tmp_path / "model")


@pytest.mark.usefixtures("refusing_hub")
def test_gated_data_set() -> None:
    config = HubProblems.model_validate({"kind": "hub", "id": "owner/gated"})
    with pytest.raises(ProblemError, match=r"datasets/owner/gated, then log in"):
        load_problems(config)
