"""GPUs that are not there, too few, or too old: each is told before anything is loaded."""

from __future__ import annotations

import pytest
import torch

from aent.config.setting import Setting, Trainer
from aent.processes import ProcessesError, open_processes, open_scoring

TRAINER = {"device": "cuda", "dtype": "bfloat16"}


@pytest.fixture
def node(monkeypatch):
    """Function that makes a node with these GPUs and processes."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(gpus, processes, here=None, bf16=True):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here or processes))

    return make


def refusal(**trainer):
    with pytest.raises(ProcessesError) as caught, open_processes(Trainer(**TRAINER | trainer)):
        pass
    return str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_at_all_on_this_machine(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    told = refusal(gpus=1)
    assert "trainer.device is cuda and trainer.gpus needs 1 GPU(s) on this node" in told
    assert "torch finds 0" in told
    assert "trainer.device: cpu and trainer.gpus: 0" in told


def test_a_torch_for_cpus_alone_is_named(node, monkeypatch):
    node(gpus=0, processes=1)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert f"torch {torch.__version__} is built for CPUs alone; install a CUDA build" in refusal(
        gpus=1
    )


def test_fewer_gpus_than_processes(node, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    node(gpus=2, processes=4)
    told = refusal(gpus=4)
    assert "needs 4 GPU(s) on this node, but torch finds 2 (CUDA_VISIBLE_DEVICES is '2,3')" in told
    assert "ask the scheduler for more, spread the run over trainer.nodes, or lower" in told


def test_a_node_needs_its_own_processes_gpus_only(node):
    node(gpus=2, processes=4, here=4)
    assert "needs 4 GPU(s) on this node, but torch finds 2" in refusal(gpus=4, nodes=2)
    node(gpus=2, processes=4, here=2, bf16=False)
    assert "bfloat16" in refusal(gpus=4, nodes=2)  # the GPUs are there


def test_gpus_without_bfloat16(node):
    node(gpus=1, processes=1, bf16=False)
    told = refusal(gpus=1)
    assert "trainer.dtype is bfloat16, which Tesla T4 lacks: set trainer.dtype: float32" in told
    with open_processes(Trainer(device="cuda", gpus=1)) as processes:
        assert str(processes.device) == "cuda"


def test_evaluation_asks_for_its_own_gpus(node):
    node(gpus=1, processes=2)
    setting = {"model": "m", "problems": "p", "evaluation": {"benchmarks": ["b"], "gpus": 2}}
    setting = Setting.model_validate(setting | {"trainer": TRAINER | {"gpus": 4}})
    with (
        pytest.raises(ProcessesError, match=r"evaluation\.gpus needs 2 GPU\(s\) .* torch finds 1"),
        open_scoring(setting),
    ):
        pass
