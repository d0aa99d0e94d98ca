"""Evaluation through lighteval: hand-computed scores, real benchmarks, its metrics as oracles."""

import json
import os
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from aent.checksums import write_checksums
from aent.config import Setting
from aent.evaluation import runner
from aent.evaluation.model import RolloutModel, SampledResponse
from aent.evaluation.tasks import SampledCorrectness, documents, make_task
from aent.files import StorageError
from aent.problems.record import Problem, read_problems
from aent.processes import Processes
from aent.rewards import Verifier
from aent.rollout import vllm
from aent.rollout.engine import Rollouts

REAL = Path(os.environ.get("AENT_BENCHMARKS", Path(__file__).parents[3] / "shared" / "benchmarks"))
SLOW = ["math_500", "minerva", "olympiadbench"]  # hundreds of comparisons by sympy
NAMES = ["aime24", "amc23", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"the real benchmark files are not at {REAL}; set AENT_BENCHMARKS"
)


def _setting(**evaluation):
    return Setting.model_validate(
        {"model": "m", "problems": "p", "evaluation": {"benchmarks": ["b"], **evaluation}}
    )


class Scripted:
    """An engine and tokenizer that give prepared texts, problem by problem."""

    def __init__(self, texts, cut=()):
        self.texts, self.cut = texts, set(cut)

    def generate(self, prompts, sampling, generator):
        rows = len(prompts) * sampling.samples
        ids = torch.arange(rows)[:, None]  # a row's token is its own number
        self.order = [prompt[0] for prompt in prompts for _ in range(sampling.samples)]
        return Rollouts(
            prompt_ids=ids,
            prompt_mask=torch.ones(rows, 1).bool(),
            response_ids=ids,
            response_mask=torch.ones(rows, 1).bool(),
            logprobs=torch.zeros(rows, 1),
            truncated=torch.tensor(
                [(p, i % sampling.samples) in self.cut for i, p in enumerate(self.order)]
            ),
        )

    def batch_decode(self, rows, **_):
        samples = len(rows) // len(set(self.order))
        return [self.texts[self.order[row[0]]][row[0] % samples] for row in rows]


def _score(problems, texts, setting, cut=(), timeout_s=5.0):
    """Scores and details of prepared texts, a list a problem."""
    engine = Scripted(texts, cut)
    number = {problem.problem: i for i, problem in enumerate(problems)}
    model = RolloutModel(engine, engine, lambda text: [number[text]], setting.evaluation, 9999)
    with Verifier(timeout_s=timeout_s) as verifier:
        metric = SampledCorrectness(verifier, setting.evaluation.samples)
        return runner.score(model, {"b": make_task("b", problems, metric)}, metric, setting)


def test_scores_by_hand():
    problems = [Problem(str(i), f"q{i}", str(i)) for i in range(4)]
    right, wrong = [f"so \\boxed{{{i}}}" for i in range(4)], "so \\boxed{77}"
    texts = [
        [right[0]] * 4,  # 1, passes
        [right[1], wrong, wrong, "no box"],  # 1/4, passes
        [wrong] * 4,  # 0
        [right[3], right[3], wrong, wrong],  # one of the right ones is cut: 1/4, passes
    ]
    scores, details = _score(problems, texts, _setting(samples=4), cut=[(3, 0)])
    result = scores["b"]
    values = np.array([1, 0.25, 0, 0.25])
    assert result["average"] == pytest.approx(0.375)
    assert result["average_stderr"] == pytest.approx(values.std(ddof=1) / 2)
    assert result["pass"] == pytest.approx(0.75)
    assert result["pass_stderr"] == pytest.approx(0.25)  # sd of (1,1,0,1) is 1/2
    assert (result["problems"], result["samples"], result["unparsed"]) == (4, 4, 1)
    assert result["truncated_fraction"] == pytest.approx(1 / 16)
    assert details.groupby("problem_id")["correct"].sum().to_dict() == {
        "0": 4,
        "1": 1,
        "2": 0,
        "3": 1,
    }


def test_an_answer_that_no_comparison_decides_is_told_from_a_wrong_one():
    gold = r"$\frac{\log 2}{\log 2-\log 3}$"  # unequal numbers are compared with it for ever
    texts = [rf"\boxed{{{text}}}" for text in ("987654321/7", gold)] + ["no box", r"\boxed{}"]
    _, details = _score([Problem("1", "p", gold)], [texts], _setting(), timeout_s=0.5)
    assert details["timed_out"].tolist() == [True, False, False, False]
    assert details["correct"].tolist() == [False, True, False, False]


def test_lighteval_metrics_agree():
    """lighteval's avg@n and pass@k, given our verifier as the judge of one sample."""
    from lighteval.metrics.metrics_sample import AvgAtN, PassAtK
    from lighteval.tasks.requests import Doc

    doc = Doc(query="q", choices=["7"], gold_index=0, task_name="t")
    doc.id = "0"
    with Verifier() as verifier:

        def judge(doc, model_response):
            return verifier.score(model_response.text, doc.get_golds())[0].score

        for right in range(5):
            texts = ["\\boxed{7}"] * right + ["\\boxed{8}"] * (4 - right)
            response = SampledResponse(text=texts, truncated=[False] * 4)
            ours = SampledCorrectness(verifier, 4).compute(doc, response)
            average = AvgAtN(n=4, sample_scoring_function=judge).compute(doc, response)
            any_right = PassAtK(k=4, n=4, sample_scoring_function=judge).compute(doc, response)
            assert ours == {"average": average, "pass": any_right}


@needs_real
@pytest.mark.parametrize("name", NAMES)
def test_real_golds_score_all_and_wrong_answers_nothing(name):
    problems = read_problems(REAL / f"{name}.jsonl")
    setting = _setting(samples=1)
    golds = [[f"The answer is $\\boxed{{{problem.answer}}}$."] for problem in problems]
    scores, _ = _score(problems, golds, setting)
    assert scores["b"]["average"] == 1.0
    assert scores["b"]["problems"] == len(problems)
    wrong = [["The answer is $\\boxed{-987654321}$."]] * len(problems)
    scores, _ = _score(problems, wrong, setting)
    assert scores["b"]["average"] == scores["b"]["pass"] == 0.0


@needs_real
def test_the_laptop_model_runs_through_aime24(model_dir, tmp_path):
    setting = _setting(samples=2, max_response_tokens=16)
    checkpoint = runner.Checkpoint("s", "base", None, 0, model_dir)
    files = {"b": REAL / "aime24.jsonl"}
    runner.evaluate_checkpoints([checkpoint], setting, files, lambda step: tmp_path / "s.json")
    record = json.loads((tmp_path / "s.json").read_text())
    assert record["seed"] is None
    assert record["benchmarks"]["b"]["problems"] == 30
    details = pd.read_parquet(tmp_path / "s.parquet")
    assert len(details) == 60
    assert details["problem_id"].nunique() == 30
    assert details["tokens"].between(1, 16).all()


def _evaluate(model_dir, problems, folder, steps=(5,)):
    """Scores and details of the last of some checkpoints, all of the same weights."""
    checkpoints = [runner.Checkpoint("s", "m", 0, step, model_dir) for step in steps]
    setting = _setting(samples=2, max_response_tokens=6)
    written = runner.evaluate_checkpoints(
        checkpoints, setting, {"b": problems}, lambda step: folder / f"step-{step}.json"
    )
    record = json.loads(written[-1].read_text())
    record.pop("seconds")
    return record, pd.read_parquet(written[-1].with_suffix(".parquet"))


def test_processes_share_the_threads_of_a_job(problem_file, monkeypatch):
    threads, processes = [], Processes()
    processes.count = 4
    monkeypatch.setattr(runner, "open_scoring", lambda _: nullcontext(processes))
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    setting = _setting()
    trainer = setting.trainer.model_copy(update={"threads": 8})
    setting = setting.model_copy(update={"trainer": trainer})
    assert runner.evaluate_checkpoints([], setting, {"b": problem_file}, lambda _: None) == []
    assert threads == [2]


def test_replaced_weights_are_not_answered_from_a_cache(model_dir, problem_file, tmp_path):
    from safetensors.torch import load_file, save_file

    first = _evaluate(model_dir, problem_file, tmp_path)
    again = _evaluate(model_dir, problem_file, tmp_path)
    assert first[0] == again[0]
    pd.testing.assert_frame_equal(first[1], again[1])
    weights = model_dir / "model.safetensors"
    before = weights.read_bytes()
    try:
        changed = {name: -value for name, value in load_file(weights).items()}
        save_file(changed, weights, metadata={"format": "pt"})
        write_checksums(model_dir)  # as training would, had it saved these weights
        assert not _evaluate(model_dir, problem_file, tmp_path)[1].equals(first[1])
    finally:
        weights.write_bytes(before)
        write_checksums(model_dir)


def test_scores_do_not_depend_on_the_company(model_dir, problem_file, tmp_path):
    """A checkpoint alone in its job, or after others: checkpoints_per_job is a matter of speed."""
    alone = _evaluate(model_dir, problem_file, tmp_path / "alone")
    after = _evaluate(model_dir, problem_file, tmp_path / "after", steps=(3, 4, 5))
    assert alone[0] == after[0]
    pd.testing.assert_frame_equal(alone[1], after[1])
    order = [problem.id for problem in read_problems(problem_file)]
    assert alone[1]["problem_id"].drop_duplicates().tolist() == order
    # The same weights at another step meet other noise.
    earlier = pd.read_parquet(tmp_path / "after" / "step-4.parquet")
    assert earlier["prompt"].equals(alone[1]["prompt"])
    assert not earlier["completion"].equals(alone[1]["completion"])


def test_lighteval_shuffles_its_documents_at_each_call():
    """Why `documents` sorts; when this fails, it need not."""
    problems = [Problem(str(i), f"q{i}", "1") for i in range(20)]
    with Verifier() as verifier:
        task = make_task("b", problems, SampledCorrectness(verifier, 1))
        first, second = ([doc.query for doc in task.get_docs()] for _ in range(2))
        assert first != second
        for _ in range(2):
            assert [doc.query for doc in documents(task)] == [p.problem for p in problems]


def test_a_single_problem_has_no_standard_error(tmp_path):
    scores, details = _score(
        [Problem("0", "q", "7")], [["\\boxed{7}", "\\boxed{8}"]], _setting(samples=2)
    )
    assert scores["b"] == {
        "split": "test",
        "average": 0.5,
        "average_stderr": None,
        "pass": 1.0,
        "pass_stderr": None,
        "problems": 1,
        "samples": 2,
        "unparsed": 0,
        "truncated_fraction": 0.0,
        "length_mean": 1.0,
    }
    checkpoint = runner.Checkpoint("s", "base", None, 0, Path("m"))
    path = runner.write(tmp_path / "x.json", checkpoint, scores, details, 1.0, {"b": "12"})
    assert json.loads(path.read_text())["benchmarks"] == scores
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.json", "x.parquet"]


def test_no_name_of_a_benchmark_is_special():
    """lighteval keeps the mean over its tasks under `all`."""
    problems = [Problem("0", "q0", "7"), Problem("1", "q1", "8")]
    engine = Scripted([["\\boxed{7}"], ["\\boxed{8}"]])
    setting = _setting(samples=1)
    model = RolloutModel(engine, engine, lambda text: [int(text[1])], setting.evaluation, 9999)
    with Verifier() as verifier:
        metric = SampledCorrectness(verifier, 1)
        tasks = {
            "all": make_task("all", problems, metric),
            "half": make_task("half", [problems[0], Problem("1", "q1", "9")], metric),
        }
        scores, _ = runner.score(model, tasks, metric, setting)
    assert {name: values["average"] for name, values in scores.items()} == {"all": 1, "half": 0.5}


def test_progress_names_checkpoint_benchmark_scores_and_time(
    model_dir, problem_file, tmp_path, caplog
):
    caplog.set_level("INFO", logger="aent.evaluation")
    _evaluate(model_dir, problem_file, tmp_path, steps=(1, 2))
    lines = [message for message in caplog.messages if "average" in message]
    assert len(lines) == 2
    assert lines[0].startswith("checkpoint 1 of 2, s/m/seed0 step 1, b: average 0.000, pass@2 ")
    assert lines[1].endswith("0s left")


def test_responses_as_long_as_the_model_are_refused():
    evaluation = _setting(max_response_tokens=32).evaluation
    with pytest.raises(ValueError, match=r"max_response_tokens 32 leaves no room.* 32 positions"):
        RolloutModel(Scripted([]), Scripted([]), lambda text: [0], evaluation, 32)


def test_a_prompt_too_long_keeps_its_end(caplog):
    problems = [Problem("0", "q0", "1")]
    setting = _setting(samples=1, max_response_tokens=4)
    engine = Scripted([["\\boxed{1}"]])
    seen = []
    engine.generate_plain = engine.generate

    def generate(prompts, sampling, generator):
        seen.extend(prompts)
        return engine.generate_plain([[0]], sampling, generator)

    engine.generate = generate
    model = RolloutModel(engine, engine, lambda text: list(range(30)), setting.evaluation, 10)
    with Verifier() as verifier:
        metric = SampledCorrectness(verifier, 1)
        runner.score(model, {"b": make_task("b", problems, metric)}, metric, setting)
    assert seen == [[24, 25, 26, 27, 28, 29]]
    assert "1 prompts cut to their last 6 tokens" in caplog.text


@pytest.mark.parametrize(
    ("engine", "longest", "positions"),
    [
        ("vllm", 5, 11),  # 5 and a response's 6
        ("vllm", 9000, 8192),  # the model's: vLLM refuses to be made for more
        ("transformers", 5, 8192),  # it takes what the model takes
    ],
)
def test_prompts_leave_a_response_its_room_in_model_and_engine(
    engine, longest, positions, model_dir, problem_file, monkeypatch
):
    made = {}

    class Recording:
        def __init__(self, **options):
            made.update(options)

        def generate(self, prompts, images, num_generations):
            made["prompts"] = prompts
            return prompts, [[7]] * len(prompts), [[[-0.5]]] * len(prompts), None

    monkeypatch.setattr(vllm, "vllm_generation", lambda: Recording)
    data = _setting(samples=1, max_response_tokens=6).model_dump()
    if engine == "vllm":
        data["trainer"] |= {"device": "cuda", "gpus": 1}
    data["rollout"] |= {"engine": {"kind": engine}, "max_prompt_tokens": longest}
    setting = Setting.model_validate(data)
    checkpoint = runner.Checkpoint("s", "base", None, 0, model_dir)
    model = runner.Opener(setting, Processes()).open(checkpoint)
    assert model.positions == positions
    if engine == "transformers":
        return
    assert made["max_model_length"] == positions
    task = make_task("b", read_problems(problem_file), SampledCorrectness(None, 1))
    docs = documents(task)
    model.greedy_until(docs)
    whole = [model.encode(doc.query) for doc in docs]
    assert min(len(prompt) for prompt in whole) > 5
    assert made["prompts"] == [prompt[-longest:] for prompt in whole]


def test_scores_that_the_disk_does_not_take_are_named(tmp_path):
    (tmp_path / "scores").write_text("a file where a folder is needed")
    checkpoint, target = (
        runner.Checkpoint("s", "m", 0, 4, tmp_path),
        tmp_path / "scores/step-4.json",
    )
    with pytest.raises(StorageError, match=re.escape(f"{target.with_suffix('.parquet')}: cannot")):
        runner.write(target, checkpoint, {}, pd.DataFrame({"sample": [0]}), 1.0, {})
