"""Fields of AEnt's arguments for TRL, and what trainer and arguments refuse."""

import copy
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("trl", reason="the integration needs TRL: pip install .[trl]")

from aent.config import ConfigError
from aent.config.method import (
    AdaptiveCoefficient,
    ConstantCoefficient,
    EntropyTerm,
    FullSpace,
    TopK,
)
from aent.integrations.trl import AEntGRPOConfig, AEntGRPOTrainer

ROOT = Path(__file__).parents[2]
RULE = {
    "kind": "adaptive",
    "initial": 0.02,
    "low": 10.0,
    "high": 20.0,
    "rate": 0.001,
    "min": 0.005,
    "max": 0.04,
}

# --- Configuration ---


def config(tmp_path, **changes):
    return AEntGRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **changes)


def test_defaults_are_the_papers(tmp_path):
    paper = yaml.safe_load((ROOT / "config" / "paper.yaml").read_text())["methods"]["aent"]
    term = config(tmp_path).entropy_term()
    expected = EntropyTerm.model_validate(paper["entropy"])
    assert term.token_space == expected.space
    assert term.coefficient_rule == expected.coefficient


def test_fields_take_models_dictionaries_and_text(tmp_path):
    rule = {"kind": "constant", "value": 0.1}
    for space in ("full", FullSpace(), {"kind": "full"}, '{"kind": "full"}'):
        for given in (rule, ConstantCoefficient(value=0.1), json.dumps(rule)):
            found = config(tmp_path, token_space=space, coefficient_rule=given)
            assert found.token_space == {"kind": "full"}
            assert found.coefficient_rule == rule
    assert config(tmp_path, coefficient_rule="null").coefficient_rule is None
    filled = config(tmp_path, coefficient_rule=AdaptiveCoefficient(**RULE)).coefficient_rule
    assert filled == RULE | {"warmup_steps": 0, "pull": 0.0}


def test_fields_survive_saving(tmp_path):
    made = config(tmp_path, token_space=TopK(k=5), coefficient_rule=RULE)
    data = json.loads(made.to_json_string())
    again = config(
        tmp_path, token_space=data["token_space"], coefficient_rule=data["coefficient_rule"]
    )
    torch.save(made, tmp_path / "training_args.bin")
    pickled = torch.load(tmp_path / "training_args.bin", weights_only=False)
    for found in (again, pickled, copy.deepcopy(made)):
        assert found.token_space == {"kind": "top_k", "k": 5}
        assert found.coefficient_rule == made.coefficient_rule


def test_command_line(tmp_path):
    from trl import TrlParser

    line = f"--output_dir {tmp_path} --use_cpu --bf16 False --token_space min_p".split()
    line[-1] = '{"kind": "min_p", "epsilon": 0.1}'
    (found,) = TrlParser(AEntGRPOConfig).parse_args_and_config(
        [*line, "--coefficient_rule", json.dumps(RULE)]
    )
    assert found.token_space == {"kind": "min_p", "epsilon": 0.1}
    assert found.coefficient_rule["low"] == 10.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"token_space": {"kind": "rank_fraction", "drop": 1.0}},
            r"token_space\.rank_fraction\.drop: .*less than 1 .given: 1\.0",
        ),
        ({"token_space": "top_p"}, "token_space: .*top_p.*nucleus"),
        ({"token_space": None}, "token_space: .*None"),
        ({"token_space": "{kind: full}"}, "token_space: not valid JSON"),
        (
            {"coefficient_rule": RULE | {"min": 0.1}},
            r"coefficient_rule\.adaptive: min 0\.1 exceeds max 0\.04",
        ),
        ({"coefficient_rule": {"value": 0.1}}, "coefficient_rule: .*kind"),
        (
            {"coefficient_rule": RULE | {"beta": 1}},
            r"coefficient_rule\.adaptive\.beta: Extra inputs",
        ),
        ({"entropy_coef": 0.1}, "entropy_coef .* use either"),
        ({"use_adaptive_entropy": True}, "use_adaptive_entropy .* use either"),
        ({"use_liger_kernel": True}, "use_liger_kernel: not supported"),
    ],
)
def test_wrong_fields_are_named(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **changes)


# --- What is refused ---


def test_arguments_of_another_class(wiring):
    from trl import GRPOConfig

    with pytest.raises(TypeError, match=r"args must be an AEntGRPOConfig .given: GRPOConfig"):
        wiring.trainer(AEntGRPOTrainer, GRPOConfig)


def test_adapters(tiny_qwen):
    with pytest.raises(ConfigError, match="peft_config: adapters are not supported"):
        AEntGRPOTrainer(tiny_qwen, peft_config=object())


def test_vision_models(wiring):
    from transformers import ProcessorMixin

    class Processor(ProcessorMixin):
        def __init__(self, tokenizer):
            self.tokenizer = tokenizer

    wiring.model.config.image_token_id = 60
    with pytest.raises(ConfigError, match="does not support vision-language models"):
        wiring.aent(processing_class=Processor(wiring.tokenizer()))


@pytest.mark.parametrize(
    ("name", "value"), [("final_logit_softcapping", 30.0), ("logits_scaling", 8.0)]
)
def test_heads_that_change_logits(wiring, name, value):
    setattr(wiring.model.config, name, value)
    with pytest.raises(ConfigError, match=f"does not support models with {name} .given: {value}"):
        wiring.aent()


def test_load_balancing_losses(wiring):
    wiring.model.config.output_router_logits = False
    wiring.model.config.router_aux_loss_coef = 0.01
    with pytest.raises(ConfigError, match="set router_aux_loss_coef=0"):
        wiring.aent()
    assert wiring.aent(router_aux_loss_coef=0.0).controller is not None


def test_without_trl_the_error_says_what_to_install(monkeypatch):
    for name in ("trl", "trl_config", "trl_head"):
        monkeypatch.delitem(sys.modules, f"aent.integrations.{name}")
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ImportError, match=r"pip install \.\[trl\]"):
        importlib.import_module("aent.integrations.trl")
