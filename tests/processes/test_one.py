"""The number of processes: what is refused, and how the prompts are divided."""

import pytest
from pydantic import ValidationError

from aent.config.engine import VllmEngine
from aent.config.setting import Setting, Trainer
from aent.processes import Processes, ProcessesError, open_processes, open_scoring

GPUS = {"device": "cuda", "dtype": "bfloat16"}


def _setting(trainer, **changes):
    rest = {"model": "m", "problems": "p", "evaluation": {"benchmarks": ["b"]}}
    return Setting.model_validate(rest | {"trainer": trainer} | changes)


def test_one_process_needs_no_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with open_processes(Trainer()) as processes:
        assert type(processes) is Processes
        assert (processes.count, processes.first, str(processes.device)) == (1, True, "cpu")


def test_gpus_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValidationError, match=r"3 processes .* minibatches 2 .* prompts 32"):
        Trainer(**GPUS, gpus=3)
    assert Trainer(**GPUS, gpus=4).processes == 4


def test_processes_that_do_not_divide_the_batch_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with (
        pytest.raises(ProcessesError, match=r"3 processes .* do not divide prompts 32"),
        open_processes(Trainer()),
    ):
        pass


@pytest.mark.parametrize("started", [None, "2"])
def test_another_number_of_processes_than_gpus_is_refused(monkeypatch, started):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if started:
        monkeypatch.setenv("WORLD_SIZE", started)
    expected = rf"trainer.gpus is 4, but {started or 1} .*--num_processes 4 -m aent train"
    with pytest.raises(ProcessesError, match=expected), open_processes(Trainer(**GPUS, gpus=4)):
        pass
    setting = _setting(GPUS | {"gpus": 4}, evaluation={"benchmarks": ["b"], "gpus": 4})
    expected = rf"evaluation.gpus is 4, but {started or 1} .*-m aent evaluate"
    with pytest.raises(ProcessesError, match=expected), open_scoring(setting):
        pass


@pytest.mark.parametrize("count", [1, 2, 4])
def test_each_process_has_its_part_of_every_minibatch(count):
    shares = []
    for rank in range(count):
        processes = Processes()
        processes.count, processes.rank = count, rank
        shares.append(processes.share(prompts=16, minibatches=2))
    assert sorted(place for share in shares for place in share.places) == list(range(16))
    for share in shares:
        half = len(share.places) // 2
        assert share.total == 16
        assert max(share.places[:half]) < 8 <= min(share.places[half:])
        assert share.places == sorted(share.places)
    if count == 2:
        assert shares[1].places == [4, 5, 6, 7, 12, 13, 14, 15]


@pytest.mark.parametrize(
    ("trainer", "changes", "message"),
    [
        ({}, {"rollout": {"engine": "vllm"}}, "rollout.engine vllm needs trainer.device cuda"),
        (
            GPUS | {"gpus": 2},
            {"rollout": {"engine": {"kind": "vllm", "tensor_parallel": 4}}},
            "rollout.engine.tensor_parallel 4 does not divide the 2 processes",
        ),
        (
            GPUS | {"gpus": 2},
            {"rollout": {"engine": {"kind": "vllm", "tensor_parallel": 2}}},
            "evaluation.engine.tensor_parallel 2 does not divide the 1 processes",
        ),
        (
            GPUS | {"gpus": 2},
            {"rollout": {"engine": {"kind": "vllm", "mode": "server", "server_url": "http://s"}}},
            "a server holds the weights that are being trained",
        ),
    ],
)
def test_engines_that_do_not_fit_are_refused(trainer, changes, message):
    with pytest.raises(ValidationError, match=message):
        _setting(trainer, **changes)


def test_evaluation_may_have_an_engine_of_its_own():
    evaluation = {"benchmarks": ["b"], "engine": {"kind": "vllm", "tensor_parallel": 2}, "gpus": 2}
    setting = _setting(GPUS | {"gpus": 2}, evaluation=evaluation)
    assert setting.rollout.engine.kind == "transformers"
    assert setting.scoring_engine.tensor_parallel == setting.scoring_processes == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "server"}, "mode server does not go with server_url None"),
        ({"server_url": "http://s"}, "mode colocate does not go with server_url http://s"),
        (
            {"mode": "server", "server_url": "http://s", "tensor_parallel": 2},
            "the server's own affair",
        ),
    ],
)
def test_modes_of_vllm(options, message):
    with pytest.raises(ValidationError, match=message):
        VllmEngine(**options)
