"""Verdicts on right, wrong and hostile completions, and workers that never outlive their use."""

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aent.rewards import Verdict, Verifier, settle
from aent.verify_worker import compare

REAL = Path(os.environ.get("AENT_BENCHMARKS", Path(__file__).parents[2] / "shared/benchmarks"))
WRONG = "-987654321"


@pytest.fixture(scope="module")
def verifier():
    with Verifier(timeout_s=3.0) as verifier:
        yield verifier


def golds(name: str) -> list[str]:
    path = REAL / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is missing; AENT_BENCHMARKS names the folder")
    return [json.loads(line)["answer"] for line in path.read_text().splitlines()]


def ends(pid: int, within_s: float) -> bool:
    """Whether a process, of whatever parent, ends in time."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], within_s)[0])
    finally:
        os.close(handle)


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
        (r"\boxed{\frac{40}{2}.}", "20", 1),
        (r"\boxed{20.}", "20", 1),
        (r"\boxed{]] 20}", "20", 0),
        (r"\boxed{\text{Tuesday}}", r"\text{Tuesday}", 1),
        (r"\boxed{\text{Tuesday}}", r"\text{Monday}", 0),
        (r"\boxed{1 2}", "12", 0),
        (r"\boxed{1\,2}", "12", 0),
        (r"\boxed{12}", "1 2", 0),
        (r"\boxed{- 5}", "-5", 1),
        (r"\boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3,\frac{\pi}{2})", 1),
        (r"\boxed{(3, 4)}", "(4, 3)", 0),
        (r"\boxed{\{1, 2\}}", r"\{2, 1\}", 1),
        (r"\boxed{1,234}", "1234", 1),
        (r"\boxed{50\%}", "0.5", 1),
        (r"\boxed{100000000000000000001}", "100000000000000000000", 0),
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


@pytest.mark.slow
def test_hostile_answers_score_nothing_within_the_limit():
    endless = [
        r"9^{9^{9^9}}",
        r"10^{10^{10}}!",
        r"2^{2^{34}}",
        r"\sum_{k=1}^{10^{12}} \frac{1}{k!}",
        "(" * 1900,
    ]
    with Verifier(timeout_s=0.3) as verifier:
        for text in endless:
            start = time.monotonic()
            verdict = verifier.score([rf"\boxed{{{text}}}"], ["3"])[0]
            # A limit of CPU time: the worker's start and other users of the machine come on top.
            assert time.monotonic() - start < 15
            assert verdict == Verdict(0.0, False, True, text)
        # The worker was replaced; odd characters do it no harm.
        odd = "\x00\ud800\u202e"
        verdicts = verifier.score([rf"\boxed{{{odd}}}", r"\boxed{2/4}"], ["3", "0.5"])
        assert [v.score for v in verdicts] == [0.0, 1.0]


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
    for _ in range(400):
        ours, gold = (generator.choice(["", "+", "-", "00"]) for _ in range(2))
        ours, gold = f"{ours}{generator.randint(0, 12)}", f"{gold}{generator.randint(0, 12)}"
        score, parsed = settle(ours, gold)
        assert (bool(score), parsed) == compare(ours, gold), (ours, gold)


@pytest.mark.parametrize("size", [3, 15, 16, 40, 400])
def test_long_integers_agree_with_math_verify(size):
    first, second = f"{10**size}", f"{10**size + 1}"
    assert settle(first, second) == (0.0, True)
    assert settle(f" +{first} ", f"${first}$") == (1.0, True)
    assert compare(first, second) == (False, True)
    assert compare(first, first) == (True, True)


@given(st.text(alphabet="12 -+\\,!;$()\n", max_size=6), st.integers(-30, 30))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_what_is_settled_as_right_reads_as_that_integer(text, answer):
    """No arrangement of digits and white space is taken for another number."""
    settled = settle(text, str(answer))
    if settled == (1.0, True):
        plain = text.replace("$", "")
        for space in ("\\,", "\\!", "\\;"):
            plain = plain.replace(space, " ")
        sign, digits = plain.strip()[:1], plain.strip().lstrip("+-").strip()
        assert int(("-" if sign == "-" else "") + digits) == answer


def test_settling_long_white_space_takes_linear_time():
    start = time.process_time()
    assert settle("1" + " " * 1900 + "2", " " * 200_000 + "1" + " " * 200_000 + "2") == (1.0, True)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize("name", ["aime24", "amc23", "math_500", "minerva", "olympiadbench"])
def test_real_answers_echoed_are_right_and_a_wrong_one_is_wrong(verifier, name):
    answers = golds(name)
    echoed = verifier.score([rf"so \boxed{{{answer}}}" for answer in answers], answers)
    assert [v.score for v in echoed] == [1.0] * len(answers)
    # Algebra on every answer takes half a minute: a sample here, all of them in the evaluation.
    some = answers[:: len(answers) // 20]
    assert all(compare(answer, answer) == (True, True) for answer in some)
    wrong = verifier.score([rf"so \boxed{{{WRONG}}}"] * len(some), some)
    assert [v.score for v in wrong] == [0.0] * len(some)


def test_an_answer_with_which_no_comparison_ends():
    r"""Of the real benchmarks this is the only one: unequal numbers are compared for ever."""
    gold = r"$\frac{\log 2}{\log 2-\log 3}$"
    with Verifier(timeout_s=0.5) as verifier:
        wrong, right = verifier.score([rf"\boxed{{{WRONG}}}", rf"\boxed{{{gold}}}"], [gold] * 2)
    assert (wrong.score, wrong.timed_out) == (0.0, True)
    assert (right.score, right.timed_out) == (1.0, False)


def test_two_hundred_and_fifty_six_plain_integers_take_milliseconds(verifier):
    completions = [rf"start 3 first +{i} so \boxed{{ {i % 40} }}" for i in range(256)]
    answers = [str(i // 8) for i in range(256)]
    times = []
    for _ in range(5):
        start = time.process_time()
        verdicts = verifier.score(completions, answers)
        times.append(time.process_time() - start)
    assert sum(v.score for v in verdicts) == sum(i % 40 == i // 8 for i in range(256))
    assert min(times) < 0.010
    with Verifier() as fresh:
        fresh.score(completions, answers)
        assert fresh._workers == [None]  # no process was needed


def test_workers_are_limited_in_memory_and_load_no_torch(verifier):
    verifier.score([r"\boxed{2/8}"], ["0.25"])
    process = Path(f"/proc/{verifier._workers[0].process.pid}")
    lines = (process / "limits").read_text().splitlines()
    limit = next(line for line in lines if line.startswith("Max address space"))
    assert int(limit.split()[3]) <= 1 << 30
    maps = (process / "maps").read_text()
    assert "libtorch" not in maps
    assert "numpy" not in maps


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


def test_workers_end_when_their_parent_is_killed_at_work(tmp_path):
    """A worker that computes for ever sees no closed pipe: the kernel's limit ends it."""
    script = (
        "from aent.rewards import Verifier\n"
        "verifier = Verifier(timeout_s=1.0)\n"
        "verifier.score([r'\\boxed{1/2}'], ['0.5'])\n"
        "print(verifier._workers[0].process.pid, flush=True)\n"
        "verifier._workers[0].ask((r'9^{9^{9^9}}', '3'))\n"
        "print('asked', flush=True)\n"
        "input()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    worker = int(parent.stdout.readline())
    assert parent.stdout.readline() == "asked\n"
    parent.kill()
    parent.communicate()
    assert ends(worker, within_s=30)


def test_an_interrupt_leaves_no_answer_to_the_wrong_question(verifier, monkeypatch):
    verifier.score([r"\boxed{3/6}"], ["0.5"])
    first = verifier._workers[0].process.pid
    with monkeypatch.context() as patched:
        patched.setattr(select, "select", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            verifier.score([r"\boxed{2/6}"], ["1/3"])
    assert ends(first, within_s=10)
    assert verifier.score([r"\boxed{1/4}"], ["1/3"])[0].score == 0.0


def test_sound_answers_are_those_that_math_verify_finds_equal_to_themselves(verifier):
    answers = ["7", r"\frac{1}{2}", r"\text{}", "(1, 2]", r"\frac{1}{2}", "9" * 3000]
    assert verifier.sound(answers) == [True, True, False, True, True, False]
    assert verifier.sound([]) == []


def _interrupt(*_):
    raise KeyboardInterrupt


def test_a_terminal_s_interrupt_is_left_to_the_parent(verifier):
    verifier.score([r"\boxed{4/8}"], ["0.5"])
    worker = verifier._workers[0].process
    os.kill(worker.pid, signal.SIGINT)
    assert verifier.score([r"\boxed{5/7}"], [r"\frac{5}{7}"])[0].score == 1.0
    assert verifier._workers[0].process is worker


def test_a_worker_killed_from_outside_is_replaced_and_no_answer_goes_astray():
    with Verifier() as verifier:
        verifier.score([r"\boxed{2/3}"], ["3/4"])
        worker = verifier._workers[0].process.pid
        [fork] = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
        os.kill(int(fork), signal.SIGKILL)
        texts = [rf"\boxed{{{n}/3}}" for n in (4, 5, 7)]
        verdicts = verifier.score(texts, [r"\frac{5}{3}"] * 3)
        assert [v.score for v in verdicts] == [0.0, 1.0, 0.0]
        assert not any(v.timed_out for v in verdicts)
        assert verifier._workers[0].process.pid != worker


def test_a_module_in_the_working_directory_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    (tmp_path / "math_verify.py").write_text("raise SystemExit('the wrong math_verify')")
    monkeypatch.chdir(tmp_path)
    with Verifier() as verifier:
        assert verifier.score([r"\boxed{1/2}"], ["0.5"])[0].score == 1.0


def test_several_workers_share_a_batch():
    completions = [rf"\boxed{{{n}/7}}" for n in range(20)] + [r"\boxed{9^{9^{9^9}}}"]
    answers = [rf"\frac{{{n if n % 3 else n + 1}}}{{7}}" for n in range(20)] + ["3"]
    with Verifier(workers=2, timeout_s=0.5) as verifier:
        verdicts = verifier.score(completions, answers)
        assert [v.score for v in verdicts] == [float(bool(n % 3)) for n in range(20)] + [0.0]
        assert [v.timed_out for v in verdicts] == [False] * 20 + [True]


def test_memory_is_bounded(verifier, monkeypatch):
    monkeypatch.setattr("aent.rewards.REMEMBERED", 3)
    verifier.score([rf"\boxed{{{n}/11}}" for n in range(6)], ["3/11"] * 6)
    # 3/11 itself is settled without math-verify; of the other five the last three stay.
    assert list(verifier._memory) == [(f"{n}/11", "3/11") for n in (2, 4, 5)]


def test_wrong_arguments():
    with Verifier() as verifier, pytest.raises(ValueError, match="2 completions, but 1 answers"):
        verifier.score(["a", "b"], ["1"])
    with pytest.raises(ValueError, match="workers 0"):
        Verifier(workers=0)
    with pytest.raises(ValueError, match="timeout_s nan"):
        Verifier(timeout_s=float("nan"))
