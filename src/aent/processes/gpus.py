"""The GPUs that a job needs, looked for before anything is loaded or started."""

from __future__ import annotations

import os

import torch

from aent.processes.one import ProcessesError


def check_gpus(needed: int, dtype: str, key: str) -> None:
    """See that each process on this node has a GPU of its own, and that it can compute in a type.

    Args:
        needed: processes on this node.
        dtype: float32 or bfloat16.
        key: the configuration's key that asks for the GPUs.

    Raises:
        ProcessesError: there are too few GPUs, or they lack bfloat16; the message says what to do.
    """
    found = torch.cuda.device_count()
    if found < needed:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        limited = "" if seen is None else f" (CUDA_VISIBLE_DEVICES is {seen!r})"
        raise ProcessesError(
            f"trainer.device is cuda and {key} needs {needed} GPU(s) on this node, but torch finds "
            f"{found}{limited}: {_remedy(found, key)}"
        )
    if dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ProcessesError(
            f"trainer.dtype is bfloat16, which {torch.cuda.get_device_name()} lacks: set "
            "trainer.dtype: float32, or use GPUs that have it, such as A100 and later"
        )


def _remedy(found: int, key: str) -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"torch {torch.__version__} is built for CPUs alone; install a CUDA build, or set "
            "trainer.device: cpu and trainer.gpus: 0"
        )
    if found == 0:
        return (
            "ask the scheduler for GPUs, see what `nvidia-smi` says of the driver, or set "
            "trainer.device: cpu and trainer.gpus: 0"
        )
    return f"ask the scheduler for more, spread the run over trainer.nodes, or lower {key}"
