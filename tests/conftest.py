"""Shared fixtures: one thread, no network, Snakemake, a model small enough to check by hand."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

ROOT = Path(__file__).parents[1]

Snakemake = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def snakemake() -> Snakemake:
    """Function that runs Snakemake with these arguments in a folder; output is in `stdout`."""

    def run(
        *arguments: str, folder: Path, environment: Mapping[str, str] = os.environ
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        # The programs of this environment come first; the hub is out of reach.
        path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        return subprocess.run(
            [*command, "--directory", str(folder), *arguments],
            cwd=ROOT,
            env={**environment, "PATH": path, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def hub_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Function that makes the hub's client ask another address."""

    def use(endpoint: str) -> None:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)

    return use


class Answering(http.server.BaseHTTPRequestHandler):
    """A part of the hub: `answers` gives status, headers and body for a path."""

    answers: Callable[[str], tuple[int, dict[str, str], bytes]]

    def do_GET(self) -> None:
        status, headers, body = type(self).answers(self.path)
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def serve_hub(hub_at: Callable[[str], None]) -> Iterator[Callable[..., None]]:
    """Function that puts a server with these answers in the hub's place."""
    servers = []

    def serve(answers: Callable[[str], tuple[int, dict[str, str], bytes]]) -> None:
        handler = type("Hub", (Answering,), {"answers": staticmethod(answers)})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        hub_at(f"http://127.0.0.1:{server.server_port}")

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def tiny_qwen():
    """A fresh two-layer Qwen2 with 61 tokens, the same weights every time."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture
def ragged_rollouts():
    """Four rows (two prompts, two samples) with unequal prompts and responses."""
    import torch

    from aent.rollout.engine import Rollouts

    generator = torch.Generator().manual_seed(1)
    prompt_mask = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]).bool()
    response_mask = torch.tensor(
        [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    ).bool()
    prompt_ids = torch.randint(2, 61, (4, 4), generator=generator)
    prompt_ids[1], prompt_ids[3] = prompt_ids[0], prompt_ids[2]
    response_ids = torch.randint(2, 61, (4, 5), generator=generator)
    noise = 0.3 * torch.randn(4, 5, generator=generator)
    return Rollouts(
        prompt_ids=prompt_ids * prompt_mask,
        prompt_mask=prompt_mask,
        response_ids=response_ids * response_mask,
        response_mask=response_mask,
        logprobs=(-4.0 + noise) * response_mask,
        truncated=torch.tensor([True, False, False, False]),
    )
