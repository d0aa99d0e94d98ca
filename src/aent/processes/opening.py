"""Which processes this one belongs to, as its launcher has said in the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from aent.config.setting import Setting, Trainer
from aent.processes.gpus import check_gpus
from aent.processes.one import Processes, ProcessesError


@contextmanager
def open_processes(trainer: Trainer) -> Iterator[Processes]:
    """The processes that train a run; one needs no launcher and no accelerate.

    On GPUs there must be as many as configured; on CPUs any number that divides the batch.

    Raises:
        ProcessesError: the launcher started another number of processes, or GPUs are missing or
            lack bfloat16.
    """
    started = _started(trainer, trainer.processes, "trainer.gpus", "train")
    try:
        trainer.check_divides(started)
    except ValueError as error:
        raise ProcessesError(str(error)) from None
    precision = trainer.dtype if trainer.strategy == "fsdp2" else None
    with _open(started, trainer.device, precision) as processes:
        yield processes


@contextmanager
def open_scoring(setting: Setting) -> Iterator[Processes]:
    """The processes that score checkpoints together.

    Raises:
        ProcessesError: as `open_processes`.
    """
    trainer = setting.trainer
    started = _started(trainer, setting.scoring_processes, "evaluation.gpus", "evaluate")
    with _open(started, trainer.device, None) as processes:
        yield processes


def _started(trainer: Trainer, wanted: int, key: str, command: str) -> int:
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if trainer.device == "cuda":
        if started != wanted:
            raise ProcessesError(
                f"{key} is {wanted}, but {started} process(es) were started; one for each GPU: "
                f"accelerate launch --num_processes {wanted} -m aent {command} ..."
            )
        check_gpus(int(os.environ.get("LOCAL_WORLD_SIZE", started)), trainer.dtype, key)
    return started


@contextmanager
def _open(started: int, device: str, sharded: str | None) -> Iterator[Processes]:
    if started == 1:
        yield Processes(device)
        return
    # Imported late: one process needs none of it.
    from aent.processes.several import SeveralProcesses

    processes = SeveralProcesses(device, sharded)
    try:
        yield processes
    finally:
        processes.close()
