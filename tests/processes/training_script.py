"""One of two processes: trains what a plan names, one run after the other, and samples.

Started by test_several.py. A run that is asked to stop gets SIGTERM in its second process alone.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from conftest import ByLength

from aent import trainer
from aent.config import Run
from aent.models import eos_ids, load_model, load_tokenizer
from aent.processes.several import SeveralProcesses
from aent.rollout.engine import Sampling
from aent.rollout.shared import SharedEngine
from aent.rollout.transformers import TransformersEngine

plan = json.loads(Path(sys.argv[1]).read_text())
rank = int(os.environ["RANK"])


def interrupted(step):
    learn = trainer.Session.learn

    def learning(session, experience):
        if session.step + 1 == step and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(session, experience)

    return learning


def close(processes):
    """The group serves all runs; accelerate would keep the first one's strategy."""
    dist.barrier()
    AcceleratorState._reset_state()


def sample(model_dir, folder):
    """What each process has of a batch that both sample."""
    processes = SeveralProcesses("cpu")
    model, tokenizer = load_model(model_dir).eval(), load_tokenizer(model_dir)
    own = TransformersEngine(model, tokenizer.pad_token_id, eos_ids(model, tokenizer))
    engine = SharedEngine(own, tokenizer.pad_token_id, processes)
    generator = torch.Generator().manual_seed(3)
    rollouts = engine.generate(plan["prompts"], Sampling(**plan["sampling"]), generator)
    torch.save(vars(rollouts), folder / f"rollouts{rank}.pt")
    processes.close()


if __name__ == "__main__":
    trainer.Verifier = ByLength
    SeveralProcesses.close = close
    plain, found = trainer.Session.learn, {}
    for name, job in plan["jobs"].items():
        trainer.Session.learn = interrupted(job["stop"]) if job["stop"] else plain
        found[name] = 0
        try:
            run = Run.model_validate(job["run"])
            trainer.train(run, Path(plan["model"]), Path(plan["problems"]), Path(job["output"]))
        except SystemExit as error:
            found[name] = error.code
        trainer.Session.learn = plain
    sample(plan["model"], Path(sys.argv[2]))
    Path(sys.argv[2], f"found{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
