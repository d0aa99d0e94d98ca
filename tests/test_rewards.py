"""Verdicts on right, wrong and hostile completions, and workers that never outlive their use."""

import os
import random
import time

import pytest

from aent.rewards import Verifier, settle
from aent.verify_worker import compare


@pytest.fixture(scope="module")
def verifier():
    with Verifier(timeout_s=3.0) as verifier:
        yield verifier


@pytest.mark.parametrize(
    ("completion", "answer", "score"),
    [
        (r"so \boxed{ 20 }", "20", 1),
        (r"so \boxed{21}", "20", 0),
        (r"\boxed{1} no, \boxed{20}", "20", 1),
        (r"\boxed{20} no, \boxed{1}", "20", 0),
        (r"\boxed{\frac{2}{4}}", "0.5", 1),
        (r"\boxed{1/3}", r"\frac{1}{3}", 1),
        (r"\boxed{x^2 + 2x + 1}", r"(x+1)^2", 1),
        (r"\boxed{(0, \pi/2)}", r"\left(0, \frac{\pi}{2}\right)", 1),
        (r"\boxed{007}", "7", 1),
        (r"\boxed{10^2}", "100", 1),
        (r"\boxed{\text{Tuesday}}", r"\text{Tuesday}", 1),
        (r"\boxed{}", "20", 0),
        ("20", "20", 0),
        (r"\boxed{20", "20", 0),
    ],
)
def test_scores(verifier, completion, answer, score):
    assert verifier.score([completion], [answer])[0].score == score


def test_unparsable_answers_are_counted_not_raised(verifier):
    texts = ["no box", r"\boxed{", r"\boxed{}", "\x00\ud800", r"\boxed{" + "{" * 10_000]
    verdicts = verifier.score(texts, ["1"] * len(texts))
    assert [verdict.score for verdict in verdicts] == [0.0] * len(texts)
    assert not any(verdict.parsed for verdict in verdicts)


@pytest.mark.parametrize(
    "nasty",
    [r"9^{9^{9^9}}", r"10^{10^{10}}!", r"\sum_{k=1}^{10^{12}} \frac{1}{k!}", "\x00\ud800\u202e"],
)
def test_hostile_answers_score_nothing_within_the_limit(nasty):
    with Verifier(timeout_s=1.0) as verifier:
        verifier.score([r"\boxed{1/2}"], ["0.5"])  # the worker is up
        start = time.monotonic()
        verdict = verifier.score([rf"\boxed{{{nasty}}}"], ["3"])[0]
        assert time.monotonic() - start < 10
        assert verdict.score == 0.0
        after = verifier.score([r"\boxed{2/4}"], ["0.5"])[0]
        assert after.score == 1.0  # the worker survived or was replaced


def test_a_long_answer_is_wrong_without_being_parsed():
    assert settle(r"\frac{1}" * 100_000, "1") == (0.0, False)


def test_code_is_never_evaluated(verifier, tmp_path):
    target = tmp_path / "made"
    texts = [
        rf"\boxed{{__import__('os').system('touch {target}')}}",
        rf"\boxed{{open('{target}', 'w')}}",
        rf"\boxed{{$(touch {target})}}",
    ]
    assert [v.score for v in verifier.score(texts, ["1"] * 3)] == [0.0] * 3
    assert not target.exists()


def test_plain_integers_agree_with_math_verify():
    generator = random.Random(0)
    for _ in range(200):
        ours, gold = (generator.choice(["", "+", "-", "00"]) for _ in range(2))
        ours, gold = f"{ours}{generator.randint(0, 12)}", f"{gold}{generator.randint(0, 12)}"
        score, parsed = settle(ours, gold)
        assert (bool(score), parsed) == compare(ours, gold), (ours, gold)


def test_verdicts_keep_their_order_and_are_remembered(verifier):
    completions = [rf"\boxed{{{n}/2}}" for n in range(6)] * 2
    answers = [str(n / 2 if n % 2 else n) for n in range(6)] * 2
    first = verifier.score(completions, answers)
    assert [v.score for v in first] == [1, 1, 0, 1, 0, 1] * 2
    start = time.process_time()
    assert verifier.score(completions, answers) == first
    assert time.process_time() - start < 0.1


def test_workers_end_with_the_verifier():
    verifier = Verifier(workers=2)
    verifier.score([r"\boxed{1/2}", r"\boxed{1/3}"], ["0.5", "0.25"])
    pids = [worker.process.pid for worker in verifier._workers]
    verifier.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_wrong_arguments():
    with Verifier() as verifier, pytest.raises(ValueError, match="2 completions, but 1 answers"):
        verifier.score(["a", "b"], ["1"])
    with pytest.raises(ValueError, match="workers 0"):
        Verifier(workers=0)
