"""Two processes, DDP and FSDP2, do what one does: the same metrics, weights and states."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from aent import trainer
from aent.config import Run
from aent.models import eos_ids, load_model, load_tokenizer
from aent.rollout.engine import Sampling
from aent.rollout.transformers import TransformersEngine
from aent.signals import STATUS

pytestmark = pytest.mark.timeout(900)  # most of it for a busy machine

SCRIPT = Path(__file__).with_name("training_script.py")
PROMPTS = [[20, 30, 40], [50], [60, 70], [80, 90, 100, 110], [120]]
SAMPLING = Sampling(samples=3, max_tokens=9)
STRATEGIES = ["ddp", "fsdp2"]
ADAPTIVE = {
    **{"kind": "adaptive", "initial": 0.05, "low": 0.1, "high": 0.2, "rate": 0.001},
    **{"min": 0.0, "max": 0.1, "warmup_steps": 1},
}
METHODS = {
    "grpo": {"advantage": "grpo", "surrogate": "ppo_clip"},
    "ppo": {"advantage": "gae", "surrogate": "ppo_clip", "critic": {}},
    "aent": {
        "advantage": "grpo",
        "surrogate": "ppo_clip",
        "entropy": {"space": {"kind": "rank_fraction", "drop": 0.5}, "coefficient": ADAPTIVE},
    },
}


PRECISE = {"gradient_checkpointing": True}
ROUGH = PRECISE | {"dtype": "bfloat16"}


def run_of(method, strategy="ddp", **changes):
    options = {"steps": 5, "prompts": 8, "samples": 4, "save_every": 5, "state_every": 1}
    budget = {"micro_batch_tokens": 120, "learning_rate": 1e-3, "strategy": strategy}
    return Run.model_validate(
        {
            "name": f"s/{method}/seed0",
            "setting_name": "s",
            "method_name": method,
            "seed": 0,
            "setting": {
                "model": "m",
                "problems": "p",
                "rollout": {"max_response_tokens": 8},
                "trainer": options | budget | changes,
                "evaluation": {"benchmarks": ["p"]},
            },
            "method": METHODS[method],
        }
    )


def run_two(plan, folder):
    """Run the script in two processes; returns what each found."""
    (folder / "plan.json").write_text(json.dumps(plan))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder / "plan.json"), str(folder)],
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=840)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return [json.loads((folder / f"found{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def outputs(inputs, scorer, tmp_path_factory):
    """Folders of all runs by name; see the names below."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "Verifier", scorer)
        for method in METHODS:
            trainer.train(run_of(method), *inputs, folder / f"{method}-one")
        trainer.train(run_of("ppo", **PRECISE), *inputs, folder / "ppo-precise-one")
        trainer.train(run_of("aent", **ROUGH), *inputs, folder / "aent-rough-one")
        _stop_alone(run_of("ppo"), inputs, folder / "ppo-stopped", patch)
    jobs = {}
    for strategy in STRATEGIES:
        for method in METHODS:
            jobs[f"{method}-{strategy}"] = (run_of(method, strategy), None)
        jobs[f"ppo-precise-{strategy}"] = (run_of("ppo", strategy, **PRECISE), None)
        jobs[f"aent-rough-{strategy}"] = (run_of("aent", strategy, **ROUGH), None)
        jobs[f"ppo-stopped-{strategy}"] = (run_of("ppo", strategy), 4)  # by two, then one goes on
        jobs[f"ppo-resumed-{strategy}"] = (run_of("ppo", strategy), None)  # by one, then two
        shutil.copytree(folder / "ppo-stopped", folder / f"ppo-resumed-{strategy}")
    plan = {
        "prompts": PROMPTS,
        "sampling": vars(SAMPLING),
        "model": str(inputs[0]),
        "problems": str(inputs[1]),
        "jobs": {
            name: {"run": run.model_dump(mode="json"), "output": str(folder / name), "stop": stop}
            for name, (run, stop) in jobs.items()
        },
    }
    for found in run_two(plan, folder):
        assert found == {name: STATUS if stop else 0 for name, (_, stop) in jobs.items()}
    return folder


def _stop_alone(run, inputs, output, patch):
    """One process that is interrupted after its third step."""
    learn = trainer.Session.learn

    def learning(session, experience):
        if session.step == 3:
            raise KeyboardInterrupt
        return learn(session, experience)

    with patch.context() as inner:
        inner.setattr(trainer.Session, "learn", learning)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(run, *inputs, output)


def _same(one, other):
    """Metrics to 1e-4, and the last weights."""
    frames = [
        frame.drop(columns=[c for c in frame if c.startswith(("time/", "throughput/"))])
        for frame in (pd.read_parquet(folder / "metrics.parquet") for folder in (one, other))
    ]
    pd.testing.assert_frame_equal(*frames, check_exact=False, rtol=1e-4, atol=1e-4)
    weights = [
        load_file(folder / "checkpoints" / "step-5" / "model.safetensors")
        for folder in (one, other)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_as_one(outputs, method, strategy):
    _same(outputs / f"{method}-one", outputs / f"{method}-{strategy}")
    metrics = pd.read_parquet(outputs / f"{method}-one" / "metrics.parquet")
    assert (metrics["grad/norm"] > 1e-3).all()  # there was something to learn from
    assert (metrics["reward/std"] > 0).all()
    info = json.loads((outputs / f"{method}-{strategy}" / "run.json").read_text())
    assert info["processes"] == 2
    if method == "aent":
        assert metrics["entropy/coefficient"].nunique() > 2


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["one", *STRATEGIES])
def test_gradient_checkpointing_changes_nothing(outputs, processes):
    _same(outputs / "ppo-one", outputs / f"ppo-precise-{processes}")


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["one", *STRATEGIES])
def test_bfloat16_is_near_float32(outputs, processes):
    """In the first step, that is: from then on, a token sampled otherwise leads elsewhere.

    DDP samples with float32 weights, FSDP2 with bfloat16 ones and so, now and then, other tokens.
    """
    precise, rough = (
        pd.read_parquet(outputs / run / "metrics.parquet")
        for run in ("aent-one", f"aent-rough-{processes}")
    )
    names = ["entropy/full", "entropy/clamped"]
    first = precise[names].iloc[0].to_numpy(float)
    assert rough[names].iloc[0].to_numpy(float) == pytest.approx(first, rel=0.05)
    assert (rough["entropy/full"] != precise["entropy/full"]).all()  # it is bfloat16
    assert (rough["grad/norm"] > 1e-3).all()
    weights = load_file(outputs / f"aent-rough-{processes}/checkpoints/step-5/model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}  # kept and saved


@pytest.mark.slow
def test_two_processes_sample_what_one_samples(outputs, inputs):
    model, tokenizer = load_model(inputs[0]).eval(), load_tokenizer(inputs[0])
    engine = TransformersEngine(model, tokenizer.pad_token_id, eos_ids(model, tokenizer))
    expected = engine.generate(PROMPTS, SAMPLING, torch.Generator().manual_seed(3))
    for rank in range(2):
        found = torch.load(outputs / f"rollouts{rank}.pt")
        for name, value in vars(expected).items():
            torch.testing.assert_close(found[name], value, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_go_on_from_the_state_of_one(outputs, strategy):
    _same(outputs / "ppo-one", outputs / f"ppo-resumed-{strategy}")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_process_goes_on_from_the_state_of_two(outputs, inputs, scorer, strategy, monkeypatch):
    # The signal reached one of them only, and during the update: both finished it and left.
    stopped = outputs / f"ppo-stopped-{strategy}"
    assert not (stopped / "metrics.parquet").exists()
    assert [p.name for p in sorted((stopped / "state").glob("*.pt"))][-1] == "state-00000004.pt"
    monkeypatch.setattr(trainer, "Verifier", scorer)
    trainer.train(run_of("ppo"), *inputs, stopped)
    _same(outputs / "ppo-one", stopped)
