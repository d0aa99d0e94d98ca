"""vLLM through TRL: our calls in order, and that the TRL installed has what we call.

vLLM itself needs a GPU. TRL's own class runs here over a stand-in for vLLM's `LLM`.
"""

import inspect
import math
from types import SimpleNamespace

import pytest
import torch

from aent.config.engine import VllmEngine as VllmConfig
from aent.processes import Processes
from aent.rollout import vllm
from aent.rollout.engine import Sampling

SAMPLING = Sampling(samples=2, max_tokens=3, temperature=0.7, top_p=0.9, top_k=5)
PROMPTS = [[5, 6], [7, 8, 9]]
EOS, PAD = 1, 0
TOKENIZER = SimpleNamespace(pad_token_id=PAD)


class FakeGeneration:
    """What the engine sees of `VLLMGeneration`: records calls, answers [10, EOS] or three 11s."""

    def __init__(self, **options):
        self.options, self.calls = options, []
        self.model = options["model"]

    def sync_weights(self):
        self.calls.append(("sync", self.model))

    def generate(self, prompts, images, num_generations, profiler=None):
        sampling = (self.temperature, self.top_p, self.top_k, self.max_completion_length)
        self.calls.append(("generate", prompts, images, num_generations, sampling))
        answers = [[10, EOS] if n % 2 == 0 else [11, 11, 11] for n in range(len(prompts))]
        logprobs = [[[-0.5 - place] for place, _ in enumerate(row)] for row in answers]
        logprobs[-1][1] = [None]  # TRL's word for a NaN
        return prompts, answers, logprobs, None


def _options(following=True, trust=False):
    sizes = {"positions": 40, "rows": 16, "processes": Processes()}
    return sizes | {"following": following, "trust_remote_code": trust}


def _engine(monkeypatch, following=True, trust=False, **config):
    monkeypatch.setattr(vllm, "vllm_generation", lambda: FakeGeneration)
    options = _options(following, trust)
    return vllm.VllmEngine("policy", TOKENIZER, [EOS], VllmConfig(**config), **options)


def test_weights_are_sent_before_each_sampling(monkeypatch):
    engine = _engine(monkeypatch)
    for _ in range(2):
        engine.generate(PROMPTS, SAMPLING, torch.Generator())
    rows = [[5, 6], [5, 6], [7, 8, 9], [7, 8, 9]]
    sampled = ("generate", rows, None, 2, (0.7, 0.9, 5, 3))
    assert engine.generation.calls == [("sync", "policy"), sampled, ("sync", "policy"), sampled]


def test_a_model_that_stays_is_sent_when_it_is_another_one(monkeypatch):
    engine = _engine(monkeypatch, following=False)
    engine.generate(PROMPTS, SAMPLING, torch.Generator())
    assert [call[0] for call in engine.generation.calls] == ["generate"]
    engine.use("other")
    assert engine.generation.calls[-1] == ("sync", "other")


def test_answers_become_rollouts(monkeypatch):
    rollouts = _engine(monkeypatch).generate(PROMPTS, SAMPLING, torch.Generator())
    assert rollouts.prompt_ids.tolist() == [[0, 5, 6], [0, 5, 6], [7, 8, 9], [7, 8, 9]]
    assert rollouts.prompt_mask.sum(dim=1).tolist() == [2, 2, 3, 3]
    assert rollouts.response_ids.tolist() == [[10, 1, 0], [11, 11, 11]] * 2
    assert rollouts.response_mask.sum(dim=1).tolist() == [2, 3, 2, 3]
    assert rollouts.truncated.tolist() == [False, True, False, True]
    assert rollouts.logprobs[0].tolist() == [-0.5, -1.5, 0.0]
    assert math.isnan(rollouts.logprobs[3, 1])


@pytest.mark.parametrize(
    ("following", "config", "expected"),
    [
        (True, {}, {"mode": "colocate", "enable_sleep_mode": True}),
        (True, {"sleep": False}, {"enable_sleep_mode": False}),
        (False, {}, {"enable_sleep_mode": False}),
        (
            True,
            {"mode": "server", "server_url": "http://gpu7:8000"},
            {"mode": "server", "server_base_url": "http://gpu7:8000", "enable_sleep_mode": False},
        ),
        (True, {"tensor_parallel": 4, "memory_fraction": 0.3}, {"tensor_parallel_size": 4}),
    ],
)
def test_the_configuration_reaches_vllm(monkeypatch, following, config, expected):
    options = _engine(monkeypatch, following, **config).generation.options
    assert options.items() >= expected.items()
    assert (options["max_model_length"], options["max_num_seqs"]) == (40, 16)


@pytest.mark.parametrize("trust", [True, False])
def test_remote_code_is_trusted_where_the_configuration_says_so(monkeypatch, trust):
    assert _engine(monkeypatch, trust=trust).generation.options["trust_remote_code"] is trust


def test_vllm_that_is_missing_is_named():
    pytest.importorskip("trl")
    if pytest.importorskip("trl.import_utils").is_vllm_available():
        pytest.skip("vLLM is installed")
    with pytest.raises(vllm.VllmError, match=r"pip install 'trl\[vllm\]'"):
        vllm.vllm_generation()


class FakeLLM:
    """vLLM's `LLM` as TRL calls it in colocate mode: records what happens to it, in order."""

    def __init__(self):
        self.events, self.weights = [], {}
        runner = SimpleNamespace(model=SimpleNamespace(load_weights=self._load))
        executor = SimpleNamespace(driver_worker=SimpleNamespace(model_runner=runner))
        self.llm_engine = SimpleNamespace(model_executor=executor)

    def _load(self, named):
        for name, value in named:
            self.weights[name] = value.clone()
        if self.events[-1] != "load":
            self.events.append("load")

    def wake_up(self, tags):
        self.events.append(f"wake {tags[0]}")

    def sleep(self, level):
        self.events.append(f"sleep {level}")

    def reset_prefix_cache(self):
        self.events.append("reset cache")

    def generate(self, prompts, sampling_params, use_tqdm):
        self.events.append("generate")
        self.parameters = sampling_params
        token = SimpleNamespace(logprob=-0.25, rank=1)
        output = SimpleNamespace(token_ids=[10, EOS], logprobs=[{10: token}, {EOS: token}])
        return [
            SimpleNamespace(prompt_token_ids=prompt["prompt_token_ids"], outputs=[output])
            for prompt in prompts
        ]


@pytest.fixture
def trl_generation(monkeypatch):
    """TRL's real class over the stand-in."""
    module = pytest.importorskip("trl.generation.vllm_generation")

    def start(self):
        self.llm = FakeLLM()
        self._llm_weights_sleeping = self.enable_sleep_mode

    monkeypatch.setattr(module.VLLMGeneration, "_init_vllm", start)
    monkeypatch.setattr(module, "SamplingParams", lambda **given: given, raising=False)
    monkeypatch.setattr(vllm, "vllm_generation", lambda: module.VLLMGeneration)
    return module.VLLMGeneration


@pytest.mark.slow
def test_the_installed_trl_wakes_loads_samples_and_sleeps(trl_generation, tiny_qwen):
    engine = vllm.VllmEngine(tiny_qwen, TOKENIZER, [EOS], VllmConfig(), **_options())
    llm = engine.generation.llm
    step = ["wake weights", "load", "reset cache", "wake kv_cache", "generate", "sleep 2"]
    for factor in (1.0, 2.0):
        with torch.no_grad():
            tiny_qwen.model.norm.weight.mul_(factor)
        llm.events.clear()
        rollouts = engine.generate(PROMPTS, SAMPLING, torch.Generator())
        assert llm.events == step
        sent = dict(tiny_qwen.named_parameters())
        assert llm.weights.keys() == sent.keys()  # names of a Hugging Face model; tied ones once
        assert all(torch.equal(llm.weights[name], value) for name, value in sent.items())
    given = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_tokens": 3, "logprobs": 0, "n": 1}
    assert llm.parameters.items() >= given.items()
    assert rollouts.response_ids.tolist() == [[10, 1]] * 4
    assert rollouts.logprobs.tolist() == [[-0.25, -0.25]] * 4


@pytest.mark.slow
def test_the_installed_trl_takes_our_arguments(trl_generation, monkeypatch):
    given = {}
    monkeypatch.setattr(vllm, "vllm_generation", lambda: lambda **options: given.update(options))
    vllm.VllmEngine("policy", TOKENIZER, [EOS], VllmConfig(), **_options())
    inspect.signature(trl_generation.__init__).bind(None, **given)
    inspect.signature(trl_generation.generate).bind(None, [[5]], None, 2)
    inspect.signature(trl_generation.sync_weights).bind(None)
