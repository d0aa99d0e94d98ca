import itertools
import logging
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from aent.config import ScratchModel, SyntheticProblems
from aent.config.model import Demonstrations, WarmStart
from aent.models import build_tokenizer, create_model, load_model, load_tokenizer
from aent.pretrain import (
    Example,
    batches,
    completion_loss,
    encode,
    rate_factor,
    warm_start,
)
from aent.problems import Problem, ProblemError, load_problems

EXAMPLES = [
    Example([10 + n] * (n % 5 + 1), [1] * 6, [2] * 2, [[3] * 3, [4] * 4]) for n in range(64)
]


def problems(count: int, **changes: object) -> list[Problem]:
    data = {"kind": "synthetic", "count": count, **changes}
    return load_problems(SyntheticProblems.model_validate(data))


def config(**warm: object) -> ScratchModel:
    shape = {"hidden": 16, "intermediate": 32, "vocabulary": 1700}
    warm = {"problems": "x", "steps": 12, "batch": 8, "warmup_steps": 2, **warm}
    return ScratchModel.model_validate({"kind": "scratch", **shape, "warm_start": warm})


def recipe(**changes: object) -> WarmStart:
    return WarmStart.model_validate({"problems": "x", "batch": 8, **changes})


def test_demonstrations_as_tokens() -> None:
    tokenizer = build_tokenizer(1700)
    solution = r"begin 19 first +3 22 second -2 20 so \boxed{ 20 }"
    text = "kona has 19 tizo . first gains 3 . second gives 2 . how many ?"
    [example] = encode(tokenizer, [Problem("a", text, "20", solution)], 64)
    assert tokenizer.decode(example.prompt) == text
    assert tokenizer.decode(example.full) == f" {solution}<eos>"
    assert tokenizer.decode(example.direct) == r" so \boxed{ 20 }<eos>"
    assert [tokenizer.decode(partial) for partial in example.partial] == [
        r" begin 19 so \boxed{ 19 }<eos>",
        r" begin 19 first +3 22 so \boxed{ 22 }<eos>",
    ]


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (Problem("a", "kona has 19 tizo .", "19"), "a has no solution"),
        (Problem("a", "kona has 19 apples .", "19", "so"), r"outside .*\['apples'\]"),
        (Problem("a", "kona has 19 tizo .", "19", "so"), "not a solution of a synthetic problem"),
    ],
)
def test_problems_that_cannot_be_imitated(problem: Problem, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        encode(build_tokenizer(1700), [problem], 64)


def test_too_few_positions_or_problems() -> None:
    tokenizer = build_tokenizer(1700)
    with pytest.raises(ProblemError, match=r"takes \d+ tokens, the model has 16 positions"):
        encode(tokenizer, problems(6, tiers=[3]), 16)
    with pytest.raises(ProblemError, match="no problems to imitate"):
        encode(tokenizer, [], 16)


def test_the_mixture_has_the_configured_shares() -> None:
    shares = Demonstrations(full=0.5, partial=0.4, full_first=0.25)
    stream = batches(EXAMPLES, recipe(demonstrations=shares, seed=3, steps=1600))
    early = [demonstration for _ in range(400) for _, demonstration in next(stream)]
    assert {row[0] for row in early} == {1}
    shown = [demonstration for _ in range(1200) for _, demonstration in next(stream)]
    share = {kind: sum(row[0] == kind for row in shown) / len(shown) for kind in (1, 2, 3, 4)}
    assert share == pytest.approx({1: 0.5, 2: 0.1, 3: 0.2, 4: 0.2}, abs=0.02)


def test_a_pass_shows_every_example_once_in_batches_of_similar_length() -> None:
    first = list(itertools.islice(batches(EXAMPLES, recipe(seed=3)), 8))
    assert sorted(prompt[0] for batch in first for prompt, _ in batch) == list(range(10, 74))
    lengths = sorted(sorted(len(p) + len(d) for p, d in batch) for batch in first)
    assert all(a[-1] <= b[0] for a, b in itertools.pairwise(lengths))
    assert first == list(itertools.islice(batches(EXAMPLES, recipe(seed=3)), 8))
    assert first != list(itertools.islice(batches(EXAMPLES, recipe(seed=4)), 8))


def test_learning_rate() -> None:
    warm = recipe(steps=100, warmup_steps=10, decay_fraction=0.3)
    factors = [rate_factor(step, warm) for step in (1, 5, 10, 50, 71, 86, 100)]
    assert factors == pytest.approx([0.1, 0.5, 1, 1, 1, 0.5, 1 / 30])
    constant = recipe(steps=3, warmup_steps=0, decay_fraction=0)
    assert [rate_factor(step, constant) for step in (1, 2, 3)] == [1, 1, 1]


def test_the_loss_falls_on_completion_tokens_only() -> None:
    """Against the plain computation, a row at a time and without padding."""
    model = create_model(config())
    batch = [([5, 6, 7], [8, 1]), ([9], [10, 11, 12, 1]), ([13, 14], [1])]
    losses = []
    for prompt, completion in batch:
        logits = model(torch.tensor([prompt + completion])).logits[0]
        at = slice(len(prompt) - 1, len(prompt) + len(completion) - 1)
        losses.append(cross_entropy(logits[at], torch.tensor(completion), reduction="none"))
    expected = torch.cat(losses).mean()
    torch.testing.assert_close(completion_loss(model, batch), expected)


def test_warm_start_learns_saves_and_repeats(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    threads, generator = torch.get_num_threads(), torch.get_rng_state()
    data = problems(200)
    seen: list[tuple[int, int, float]] = []
    with caplog.at_level(logging.INFO, "aent.pretrain"):
        first = warm_start(config(), data, tmp_path / "a", lambda *step: seen.append(step))
    torch.manual_seed(99)
    second = warm_start(config(), data, tmp_path / "b")
    torch.set_rng_state(generator)
    assert torch.get_num_threads() == threads
    assert "step 12 of 12, loss" in caplog.text
    assert [step[:2] for step in seen] == [(n, 12) for n in range(1, 13)]
    assert first["loss"] < seen[0][2] - 0.5
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    one, other = (load_model(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(load_tokenizer(tmp_path / "a")) == 1700


def test_metrics(tmp_path: Path) -> None:
    metrics = warm_start(config(), problems(200), tmp_path / "a")
    parts = [f"{family}-{tier}" for family in ("chain", "story") for tier in (1, 2, 3)]
    for mode in ("sampled", "greedy"):
        found = {name for name in metrics if name.startswith(f"accuracy/{mode}")}
        assert found == {f"accuracy/{mode}", *(f"accuracy/{mode}/{part}" for part in parts)}
    assert metrics["parameters"] == sum(w.numel() for w in create_model(config()).parameters())
    assert 0 < metrics["entropy"] < 7.5  # log(1700)
    assert all(0 <= value <= 1 for name, value in metrics.items() if "accuracy" in name)


def test_a_small_model_learns_the_form_of_solutions(tmp_path: Path) -> None:
    """Within seconds it opens, works or answers directly, and boxes a number."""
    warm = {"steps": 150, "batch": 16, "learning_rate": 0.01}
    metrics = warm_start(config(**warm), problems(1500, tiers=[1]), tmp_path / "a")
    assert metrics["loss"] < 2.5
    assert metrics["truncated_fraction"] < 0.05
    assert 3 < metrics["length_mean"] < 16
