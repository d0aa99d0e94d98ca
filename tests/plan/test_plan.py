"""The plan of the paper's settings, against numbers that are known or computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aent.cli import main
from aent.config import load, parse
from aent.config.model import Shape
from aent.plan import PlanError, assume, make_plan, plan_table, render
from aent.plan.cost import tokens_a_step, update_flops
from aent.plan.memory import estimate_memory
from aent.plan.shape import parameters, read_shape, shape_of

ROOT = Path(__file__).parents[2]
PAPER = load(ROOT / "config/paper.yaml")


@pytest.fixture(scope="module")
def plan():
    return make_plan(PAPER)


def row(plan, name):
    return next(row for row in plan.runs if row.run.name == name)


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("qwen2.5-math-1.5b", 1_543_714_304),
        ("r1-distill-qwen-1.5b", 1_777_088_000),
        ("qwen2.5-math-7b", 7_615_616_512),
    ],
)
def test_parameters_of_the_papers_models(model, count):
    assert parameters(shape_of(PAPER, model)) == count


def test_parameters_are_those_of_the_model(tiny_qwen, tmp_path):
    tiny_qwen.config.save_pretrained(tmp_path)
    shape = read_shape(tmp_path / "config.json", "models.tiny")
    assert parameters(shape) == sum(p.numel() for p in tiny_qwen.parameters())
    assert shape.tied
    assert (shape.kv_width, shape.attention_width) == (8, 16)


def test_every_run_has_a_row_and_the_totals_add_up(plan):
    assert [row.run.name for row in plan.runs] == [run.name for run in PAPER.runs()]
    columns, rows = plan_table(plan)
    assert len(rows) == len(plan.runs) + 1
    assert all(len(cells) == len(columns) for cells in rows)
    for kind, hours in plan.hours.items():
        assert hours == pytest.approx(sum(row.hours[kind].total for row in plan.runs))
    assert plan.hours["A100"] > plan.hours["H100"] > 0


def test_evaluation_samples_and_disk_by_hand(plan):
    found = row(plan, "a/grpo/seed0")
    # 29 checkpoints at 15, 30, ... 435, and the last step; six benchmarks; 4 samples.
    assert found.samples == 30 * (1324 + 500 + 30 + 40 + 272 + 675) * 4
    assert found.checkpoints == 30 * 1_543_714_304 * 4
    assert found.states == 2 * 3 * 1_543_714_304 * 4


def test_tokens_and_operations_by_hand(plan):
    found = row(plan, "a/grpo/seed0")
    assert found.tokens.limit == 512 * 16 * 4096
    assert found.tokens.mean == pytest.approx(512 * 16 * (150 + 0.35 * 3072))
    shape = shape_of(PAPER, "qwen2.5-math-1.5b")
    flops = update_flops(found.run, shape, tokens_a_step(found.run, PAPER.plan))
    # The rule of thumb: 6 operations a weight and token, 8 with gradient checkpointing.
    assert flops == pytest.approx(8 * 1.54e9 * found.tokens.mean, rel=0.1)
    ppo = row(plan, "a/ppo/seed0")
    assert ppo.hours["A100"].update > 1.7 * found.hours["A100"].update
    assert ppo.hours["A100"].sampling == found.hours["A100"].sampling


def test_evaluation_takes_the_time_of_its_own_engine(plan):
    data = PAPER.model_dump(mode="json")
    data["settings"]["a"]["evaluation"]["engine"] = {"kind": "transformers"}
    slow = row(make_plan(parse(data)), "a/grpo/seed0").hours["A100"]
    fast = row(plan, "a/grpo/seed0").hours["A100"]
    assert slow.evaluation == pytest.approx(PAPER.plan.transformers_slowdown * fast.evaluation)
    assert (slow.sampling, slow.update) == (fast.sampling, fast.update)


def test_weights_gradients_and_optimiser_are_float32(plan):
    memory = row(plan, "a/grpo/seed0").memory
    assert memory.weights == memory.gradients == memory.optimizer // 2
    assert memory.peak == memory.resident + max(memory.moments.values())


def test_vllm_takes_its_share_of_the_gpu(plan):
    run = row(plan, "a/grpo/seed0").run
    shape = shape_of(PAPER, "qwen2.5-math-1.5b")
    engine = run.setting.rollout.engine
    assert (engine.kind, engine.memory_fraction, engine.sleep) == ("vllm", 0.4, True)
    assert row(plan, "a/grpo/seed0").memory.cache == 0.4 * 80e9
    awake = engine.model_copy(update={"sleep": False})
    rollout = run.setting.rollout.model_copy(update={"engine": awake})
    setting = run.setting.model_copy(update={"rollout": rollout})
    memory = estimate_memory(run.model_copy(update={"setting": setting}), shape, gpu_bytes=80e9)
    assert (memory.cache, memory.standing) == (0, 0.4 * 80e9)
    assert memory.resident == row(plan, "a/grpo/seed0").memory.resident + memory.standing


def test_what_does_not_fit_is_told_once_with_a_remedy(plan):
    changed = make_plan(
        PAPER.model_copy(update={"plan": assume(PAPER.plan, ["gpus.A100.memory_gb=1"])})
    )
    warned = [text for text in changed.warnings if text.startswith("a/grpo, a/entreg, a/aent")]
    assert len(warned) == 1
    assert "do not fit into A100 (1 GB)" in warned[0]
    roomy = assume(PAPER.plan, [f"gpus.{kind}.memory_gb=10000" for kind in PAPER.plan.gpus])
    told = make_plan(PAPER.model_copy(update={"plan": roomy})).warnings
    assert [text for text in told if "do not fit" in text] == []


def test_assumptions_can_be_changed(plan, capsys):
    config = str(ROOT / "config/paper.yaml")
    assert main(["plan", "--config", config, "--assume", "response_share=0.7"]) == 0
    printed = capsys.readouterr().out
    assert "all 54 runs" in printed
    assert "responses of 70% of their limit" in printed
    assert main(["plan", "--config", config, "--assume", "responses=0.7"]) == 2
    assert "--assume: responses: Extra inputs are not permitted" in capsys.readouterr().err
    assert main(["plan", "--config", config, "--assume", "prompt_tokens"]) == 2


def test_laptop_plan_has_no_gpu_hours():
    found = make_plan(load(ROOT / "config/config.yaml"))
    assert found.hours == {}
    assert found.warnings == []
    assert "hours" not in render(found)


def small(**model):
    return parse(
        {
            "results": "nowhere",
            "problems": {"p": {"kind": "hub", "id": "owner/data"}},
            "models": {"m": {"kind": "pretrained", "path": "owner/name", **model}},
            "settings": {"s": {"model": "m", "problems": "p", "evaluation": {"benchmarks": ["p"]}}},
            "methods": {"grpo": {"advantage": "grpo", "surrogate": "ppo_clip"}},
            "tables": {
                "t": {
                    "kind": "scores",
                    "title": "T",
                    "settings": ["s"],
                    "methods": ["grpo"],
                    "seeds": [0],
                }
            },
        }
    )


def test_unknown_sizes_name_their_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanError, match=r"problems\.p: the number of records of owner/data"):
        make_plan(small())
    card = tmp_path / "nowhere/problems/p.json"
    card.parent.mkdir(parents=True)
    card.write_text(json.dumps({"steps": [{"left": 7}]}))
    with pytest.raises(PlanError, match=r"models\.m: the shape of owner/name is not known"):
        make_plan(small())
    fetched = tmp_path / "nowhere/models/m/config.json"
    fetched.parent.mkdir(parents=True)
    fetched.write_text('{"model_type": "mamba", "hidden_size": 8}')
    with pytest.raises(PlanError, match=r"models\.m: .*config\.json: no \['num_hidden_layers'"):
        make_plan(small())
    fetched.unlink()
    shape = Shape(layers=1, hidden=8, intermediate=8, heads=1, kv_heads=1, vocabulary=9, tied=True)
    found = make_plan(small(shape=shape.model_dump()))
    assert found.runs[0].samples == 4 * 7 * 4  # checkpoints, problems, samples
