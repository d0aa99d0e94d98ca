"""The loop: what a run writes, that it repeats itself, and that it survives an interruption."""

import json
import math
import re
import shutil
from collections import Counter

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from aent import trainer
from aent.checkpoint import load_state
from aent.config import Run
from aent.config.data import SyntheticProblems
from aent.config.model import ScratchModel
from aent.folder import RunFolder
from aent.models import build_tokenizer, create_model, load_tokenizer, save_model
from aent.problems import load_problems
from aent.problems.record import read_problems, write_problems
from aent.processes import Processes
from aent.provenance import digest
from aent.rewards import Verifier
from aent.session import TrainingError, prompts_of_step

METHODS = {
    "grpo": {"advantage": "grpo", "surrogate": "ppo_clip"},
    "rloo": {"advantage": "rloo", "surrogate": "ppo_clip"},
    "ppo": {"advantage": "gae", "surrogate": "ppo_clip", "critic": {}},
    "aent": {
        "advantage": "grpo",
        "surrogate": "ppo_clip",
        "entropy": {
            "space": {"kind": "rank_fraction", "drop": 0.5},
            "coefficient": {
                "kind": "adaptive",
                "initial": 0.01,
                "low": 0.1,
                "high": 0.2,
                "rate": 0.001,
                "min": 0.0,
                "max": 0.01,
                "warmup_steps": 1,
            },
        },
    },
}


def _run(method="grpo", seed=0, **trainer_changes):
    config = {"steps": 5, "prompts": 4, "samples": 2, "save_every": 2, "state_every": 1}
    return Run.model_validate(
        {
            "name": f"s/{method}/seed{seed}",
            "setting_name": "s",
            "method_name": method,
            "seed": seed,
            "setting": {
                "model": "m",
                "problems": "p",
                "rollout": {"max_response_tokens": 6},
                "trainer": config | trainer_changes,
                "evaluation": {"benchmarks": ["p"]},
            },
            "method": METHODS[method],
        }
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A fresh model that has learnt nothing, and problems."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    config = ScratchModel.model_validate(
        {"kind": "scratch", "hidden": 16, "intermediate": 16, "warm_start": {"problems": "p"}}
    )
    save_model(create_model(config), build_tokenizer(config.vocabulary), folder / "model")
    problems = load_problems(SyntheticProblems(kind="synthetic", count=30))
    write_problems(folder / "problems.jsonl", problems)
    return folder / "model", folder / "problems.jsonl"


def _metrics(output):
    frame = pd.read_parquet(output / "metrics.parquet")
    return frame.drop(columns=[c for c in frame if c.startswith(("time/", "throughput/"))])


def _weights(output, step):
    return load_file(output / "checkpoints" / f"step-{step}" / "model.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_writes_all_it_declares(inputs, tmp_path, method):
    trainer.train(_run(method), *inputs, tmp_path)
    metrics = pd.read_parquet(tmp_path / "metrics.parquet")
    assert metrics["step"].tolist() == [1, 2, 3, 4, 5]
    assert metrics.notna().all().all()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-2",
        "step-4",
        "step-5",
    ]
    info = json.loads((tmp_path / "run.json").read_text())
    assert info["hash"] == _run(method).hash
    assert info["run"]["method"]["advantage"]["kind"] == METHODS[method]["advantage"]
    completions = pd.read_parquet(tmp_path / "completions.parquet")
    assert completions.groupby("step").size().to_dict() == {1: 8, 2: 8, 4: 8, 5: 8}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoints",
        "completions.parquet",
        "metrics.parquet",
        "run.json",
        "state",
    ]
    RunFolder(tmp_path).discard_state()
    assert not list(tmp_path.glob(".*"))
    assert not (tmp_path / "state").exists()
    assert ("loss/value" in metrics) == (method == "ppo")


def test_where_the_inputs_came_from_is_recorded(inputs, tmp_path):
    model, problems = tmp_path / "qwen-1.5b", tmp_path / "problems.jsonl"
    shutil.copytree(inputs[0], model)
    shutil.copy(inputs[1], problems)
    (tmp_path / "qwen-1.5b.json").write_text(json.dumps({"commit": "a1" * 20}))
    problems.with_suffix(".json").write_text(json.dumps({"source": {"commit": "b2" * 20}}))
    trainer.train(_run(), model, problems, tmp_path / "run")
    info = json.loads((tmp_path / "run/run.json").read_text())
    assert info["commits"] == {"model": "a1" * 20, "problems": "b2" * 20}
    assert info["inputs"]["problems"] == digest(problems)
    trainer.train(_run(), *inputs, tmp_path / "local")
    info = json.loads((tmp_path / "local/run.json").read_text())
    assert info["commits"] == {"model": None, "problems": None}


def test_the_same_seed_gives_the_same_run(inputs, tmp_path):
    for name in ("one", "two"):
        trainer.train(_run("aent"), *inputs, tmp_path / name)
    pd.testing.assert_frame_equal(
        _metrics(tmp_path / "one"), _metrics(tmp_path / "two"), check_exact=True
    )
    trainer.train(_run("aent", seed=1), *inputs, tmp_path / "three")
    assert not _metrics(tmp_path / "three").equals(_metrics(tmp_path / "one"))


@pytest.mark.parametrize("method", ["aent", "ppo"])
@pytest.mark.parametrize("state_every", [1, 2])
def test_an_interrupted_run_ends_like_an_undisturbed_one(
    inputs, tmp_path, monkeypatch, method, state_every
):
    run = _run(method, state_every=state_every)
    trainer.train(run, *inputs, tmp_path / "whole")
    learn = trainer.Session.learn

    def interrupted(session, experience):
        if session.step == 3:
            raise KeyboardInterrupt
        return learn(session, experience)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Session, "learn", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(run, *inputs, tmp_path / "torn")
    assert not (tmp_path / "torn" / "metrics.parquet").exists()
    trainer.train(run, *inputs, tmp_path / "torn")
    pd.testing.assert_frame_equal(
        _metrics(tmp_path / "torn"), _metrics(tmp_path / "whole"), check_exact=True
    )
    for step in (2, 4, 5):
        ours, theirs = _weights(tmp_path / "torn", step), _weights(tmp_path / "whole", step)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    files = [pd.read_parquet(tmp_path / name / "completions.parquet") for name in ("torn", "whole")]
    pd.testing.assert_frame_equal(*files)


def test_dropout_is_the_same_after_an_interruption(inputs, tmp_path, monkeypatch):
    """Its noise comes from torch's global generator, which a new process starts afresh."""
    model = tmp_path / "model"
    shutil.copytree(inputs[0], model)
    (model / "checksums.json").unlink()
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    run, arguments = _run(steps=3), (model, inputs[1])
    trainer.train(run, *arguments, tmp_path / "whole")
    monkeypatch.setattr(RunFolder, "lacking", lambda *_: None)  # no completions are kept here
    for _ in range(3):
        session = trainer.Session(run, *arguments, tmp_path / "torn")
        recorder = trainer.RunRecorder(tmp_path / "torn", run, None, session.step + 1)
        with trainer.Verifier() as verifier:
            recorder.log(session.step + 1, session.learn(session.collect(verifier)))
        session.save()
    assert _metrics(tmp_path / "whole")["loss/surrogate"].tolist() == [
        row["loss/surrogate"] for row in recorder.rows
    ]


def _first_step(inputs, output, checkpointing):
    """Modes of the first layers' passes, in collection and in the update; metrics and weights."""
    run = _run("ppo", gradient_checkpointing=checkpointing, epochs=2, learning_rate=1e-3)
    session = trainer.Session(run, *inputs, output)
    passes = Counter()
    networks = {"policy": session.policy.get_decoder(), "critic": session.critic.transformer}
    for name, network in networks.items():
        network.layers[0].mlp.register_forward_pre_hook(
            lambda module, _, name=name: passes.update([(name, module.training)])
        )
    with trainer.Verifier() as verifier:
        experience = session.collect(verifier)
    collecting = passes.copy()
    passes.clear()
    metrics = session.learn(experience)
    kept = {n: v for n, v in metrics.items() if not n.startswith(("time/", "throughput/"))}
    return collecting, passes, kept, session.updater._weights()


def test_policy_and_critic_are_in_training_mode_in_updates_alone(inputs, tmp_path):
    """With gradient checkpointing both are computed again in each backward pass, to the same."""
    collecting, updating, metrics, weights = _first_step(inputs, tmp_path / "kept", False)
    assert set(collecting) == {("policy", False), ("critic", False)}
    assert collecting["critic", False] == 1  # the values of the whole batch
    assert updating == {("policy", True): 4, ("critic", True): 4}  # 2 epochs of 2 minibatches
    collecting, updating, again, others = _first_step(inputs, tmp_path / "recomputed", True)
    assert set(collecting) == {("policy", False), ("critic", False)}
    assert updating == {("policy", True): 8, ("critic", True): 8}
    assert again == metrics
    assert all(torch.equal(others[name], value) for name, value in weights.items())


@pytest.mark.parametrize(("count", "each"), [(1, 6), (2, 3)])
def test_processes_share_the_threads_of_a_run(inputs, tmp_path, monkeypatch, count, each):
    """Torch gets its part of them in each process, and so does the verifier of its responses."""
    threads, verifiers = [], []

    def verifier(workers):
        verifiers.append(workers)
        return Verifier()

    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(trainer, "Verifier", verifier)
    processes = Processes()
    processes.count = count
    session = trainer.Session(_run(threads=6), *inputs, tmp_path, processes)
    session.step = session.run.setting.trainer.steps  # nothing is left to do
    trainer._take_steps(session, trainer._Unwritten())
    assert (threads, verifiers) == ([each], [each])


def test_the_state_of_another_run_is_not_used(inputs, tmp_path, caplog):
    session = trainer.Session(_run(), *inputs, tmp_path)
    session.save()
    other = trainer.Session(_run(learning_rate=1e-5), *inputs, tmp_path)
    assert other.step == 0
    assert not list((tmp_path / "state").glob("state-*"))
    [aside] = tmp_path.glob("state-other-*")
    assert str(aside) in caplog.text
    assert load_state(aside)["run_hash"] == _run().hash


def test_a_state_set_aside_is_there_when_its_run_comes_back(inputs, tmp_path, monkeypatch):
    """However often two configurations take turns, each goes on, and there is one state aside."""
    first, second = _run(), _run(learning_rate=1e-5)
    trainer.train(first, *inputs, tmp_path / "undisturbed")
    output, reached, learn = tmp_path / "run", [], trainer.Session.learn

    def one_step(session, experience):
        if reached:
            raise KeyboardInterrupt
        reached.append(session.step)
        return learn(session, experience)

    monkeypatch.setattr(trainer.Session, "learn", one_step)
    for turn, run in enumerate((first, second, first, second)):
        reached.clear()
        with pytest.raises(KeyboardInterrupt):
            trainer.train(run, *inputs, output)
        assert load_state(output / "state")["run_hash"] == run.hash
        assert load_state(output / "state")["step"] == turn // 2 + 1
        assert len(list(output.glob("state-other-*"))) == (turn > 0)
    monkeypatch.undo()
    trainer.train(first, *inputs, output)
    pd.testing.assert_frame_equal(
        _metrics(output), _metrics(tmp_path / "undisturbed"), check_exact=True
    )


def test_a_state_set_aside_comes_back_past_one_that_never_came_to_a_state(
    inputs, tmp_path, monkeypatch, caplog
):
    """The second configuration leaves rows and no state. Neither it nor its rows are in the way."""
    first, second = _run(), _run(learning_rate=1e-5, state_every=5)
    trainer.train(first, *inputs, tmp_path / "undisturbed")
    output, learn = tmp_path / "run", trainer.Session.learn

    def until_third(session, experience):
        if session.step == 2:
            raise KeyboardInterrupt
        return learn(session, experience)

    monkeypatch.setattr(trainer.Session, "learn", until_third)
    for run in (first, second):
        with pytest.raises(KeyboardInterrupt):
            trainer.train(run, *inputs, output)
    left = (output / "state/metrics.jsonl").read_bytes()
    assert left.count(b"\n") == 2
    monkeypatch.undo()
    caplog.clear()
    with caplog.at_level("INFO"):
        trainer.train(first, *inputs, output)
    assert "going on after step 2" in caplog.text
    [aside] = output.glob("state-other-*")
    assert (aside / "metrics.jsonl").read_bytes() == left
    pd.testing.assert_frame_equal(
        _metrics(output), _metrics(tmp_path / "undisturbed"), check_exact=True
    )


def test_another_configuration_may_save_checkpoints_at_other_steps(inputs, tmp_path):
    """The state in the way lacks nothing that its own configuration asks for."""
    trainer.train(_run(save_every=5), *inputs, tmp_path)
    trainer.train(_run(save_every=2), *inputs, tmp_path)
    assert len(list(tmp_path.glob("state-other-*"))) == 1
    assert load_state(tmp_path / "state")["run_hash"] == _run(save_every=2).hash


def test_the_coefficient_follows_the_entropy(inputs, tmp_path):
    trainer.train(_run("aent"), *inputs, tmp_path)
    metrics = pd.read_parquet(tmp_path / "metrics.parquet")
    values, entropies = metrics["entropy/coefficient"], metrics["entropy/clamped"]
    assert values[0] == values[1] == 0.01  # step 1 is warm-up; the first change shows in step 3
    assert (entropies > 0.2).all()
    expected = [max(0.0, values[i] - 0.001 * (entropies[i] - 0.2)) for i in range(1, 4)]
    assert values[2:].tolist() == pytest.approx(expected, rel=1e-6)
    assert (values[2:] < 0.01).all()


def test_prompts_walk_through_seeded_shuffles():
    data = list(range(10))
    seen = [p for step in range(1, 6) for p in prompts_of_step(data, 4, step, seed=3)]
    assert sorted(seen[:10]) == data
    assert sorted(seen[10:]) == data
    assert seen[:10] != seen[10:]
    other = [p for step in range(1, 6) for p in prompts_of_step(data, 4, step, seed=4)]
    assert other != seen


def test_too_few_prompts_stop_before_training(inputs, tmp_path):
    with pytest.raises(TrainingError, match=r"30 of 30 prompts .* a step needs 64"):
        trainer.train(_run(prompts=64), *inputs, tmp_path)


def test_long_prompts_are_left_out_and_counted(inputs, tmp_path, caplog):
    tokenizer = load_tokenizer(inputs[0])
    lengths = sorted(len(tokenizer(p.problem)["input_ids"]) for p in read_problems(inputs[1]))
    limit = lengths[9]
    long = sum(length > limit for length in lengths)
    run = _run()
    rollout = run.setting.rollout.model_copy(update={"max_prompt_tokens": limit})
    run = run.model_copy(update={"setting": run.setting.model_copy(update={"rollout": rollout})})
    trainer.train(run, *inputs, tmp_path / "run")
    assert 0 < long < 30
    assert json.loads((tmp_path / "run/run.json").read_text())["prompts_left_out"] == long
    assert f"{long} prompts longer than {limit} tokens left out" in caplog.text
    rollout = rollout.model_copy(update={"max_prompt_tokens": lengths[0] - 1})
    run = run.model_copy(update={"setting": run.setting.model_copy(update={"rollout": rollout})})
    with pytest.raises(TrainingError, match=r"0 of 30 prompts have at most \d+ tokens \(roll"):
        trainer.train(run, *inputs, tmp_path / "none")


def test_a_model_that_scales_its_logits_is_refused(inputs, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(inputs[0], model)
    (model / "checksums.json").unlink()
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"final_logit_softcapping": 30.0}))
    with pytest.raises(TrainingError, match="final_logit_softcapping"):
        trainer.train(_run(), model, inputs[1], tmp_path / "run")


def _spoil_loss(value):
    def spoil(session, experience):
        experience.estimate.advantages[1, 0] = value

    return spoil


def _spoil_gradient(value):
    def spoil(session, experience):
        weight = session.policy.get_input_embeddings().weight
        weight.register_hook(lambda gradient: gradient * value)

    return spoil


def _spoil_weight(value):
    def spoil(session, experience):
        def step(original=session.updater.optimizer.step):
            original()
            with torch.no_grad():
                session.policy.get_input_embeddings().weight[2, 3] = value

        session.updater.optimizer.step = step

    return spoil


NAN, INF = float("nan"), float("inf")
EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("spoil", "error", "tensors"),
    [
        (_spoil_loss(NAN), "the loss is nan", set()),
        (_spoil_loss(INF), "the loss is (-inf|inf|nan)", set()),
        (_spoil_gradient(NAN), "the gradient's norm is nan", {f"{EMBEDDING} (gradient)"}),
        (_spoil_gradient(INF), "the gradient's norm is (inf|nan)", {f"{EMBEDDING} (gradient)"}),
        (_spoil_weight(NAN), "a weight is not finite", {EMBEDDING}),
        (_spoil_weight(INF), "a weight is not finite", {EMBEDDING}),
    ],
)
def test_a_non_finite_update_leaves_the_last_state_and_a_dump(
    inputs, tmp_path, monkeypatch, spoil, error, tensors
):
    collect = trainer.Session.collect

    def spoiled(session, verifier):
        experience = collect(session, verifier)
        if session.step == 2:
            spoil(session, experience)
        return experience

    monkeypatch.setattr(trainer.Session, "collect", spoiled)
    with pytest.raises(TrainingError, match=rf"s/grpo/seed0, step 3: {error}.*; problems"):
        trainer.train(_run(), *inputs, tmp_path)
    assert load_state(tmp_path / "state")["step"] == 2
    assert len((tmp_path / "state/metrics.jsonl").read_text().splitlines()) == 2
    dump = json.loads((tmp_path / "failures" / "step-3.json").read_text())
    assert dump["step"] == 3
    assert re.match(error, dump["error"])
    assert set(dump["not_finite"]) >= tensors
    assert [row["row"] for row in dump["responses"]] == [0, 1, 2, 3]  # the first of two minibatches
    assert len(dump["problems"]) == 2
    if "loss" in error:
        assert not math.isfinite(dump["responses"][1]["advantages"][0])
    assert {len(row["tokens"]) == len(row["logprobs"]) for row in dump["responses"]} == {True}
