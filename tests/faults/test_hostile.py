"""Hundreds of hostile completions: scored, bounded, right where one can be, never run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import forks, most_memory

from aent.rewards import Verifier
from aent.verify_worker import MEMORY

SCRIPT = Path(__file__).with_name("hostile.py")
REFUSALS = Path(__file__).with_name("refusals")
LIMIT_S = 0.3
# What the kernel's clock and a fork's start add to the CPU time that it takes to hit the limit.
SLACK_S = 0.3
BOUND = 200 << 20
# sympy's lambdify begins with these imports, in a sum's numerical value; no answer's text is in it.
HARMLESS = ["compile of <string>: b'import scipy; import numpy; from scipy.special import *'"]
pytestmark = pytest.mark.timeout(900)
FAMILIES = (
    "towers",
    "factorials",
    "sums_and_integrals",
    "braces",
    "long_texts",
    "odd_characters",
    "contradictions",
    "units",
    "code",
)


def telling():
    """An environment in which Python processes print what the sandbox refuses."""
    path = [str(REFUSALS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}


@pytest.fixture(scope="module")
def mark(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile") / "made"


@pytest.fixture(scope="module")
def outcome(mark):
    """All families through the same workers, in a process of their own to measure memory."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(mark), "2", str(LIMIT_S)],
        env=telling(),
        capture_output=True,
        text=True,
        check=True,
        cwd=mark.parent,
    )
    return json.loads(done.stdout) | {"errors": done.stderr}


def test_there_are_enough(outcome):
    assert sorted(outcome["families"]) == sorted(FAMILIES)
    texts = {text for cases in outcome["families"].values() for text, *_ in cases}
    assert len(texts) >= 300


@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_is_right_where_a_right_one_exists(outcome, family):
    cases = outcome["families"][family]
    assert [case for case in cases if case[1] is not None and case[1] != case[2]] == []
    hopeless = [case for case in cases if case[1] is None]
    assert len(hopeless) == (3 if family == "factorials" else 0)
    assert all(over or score == 1 for _, _, score, over, _ in hopeless)


def test_what_is_over_the_limit_earns_nothing_and_kills_no_other(outcome):
    cases = [case for cases in outcome["families"].values() for case in cases]
    over = [case for case in cases if case[3]]
    assert len(over) > 20  # or the table is no longer hostile
    assert all(score == 0 for _, _, score, _, _ in over)


def test_each_comparison_ends_at_its_limit(outcome):
    cases = [case for cases in outcome["families"].values() for case in cases]
    assert sum(cpu_s > 0 for *_, cpu_s in cases) > 20  # or it was not measured
    assert all(cpu_s > 0.5 * LIMIT_S for *_, over, cpu_s in cases if over)
    assert [case for case in cases if case[4] > LIMIT_S + SLACK_S] == []


def test_memory_stays_bounded(outcome):
    """The kernel's limit is far away."""
    assert 20 << 20 < outcome["memory"] < BOUND < MEMORY
    assert 20 << 20 < outcome["own_memory"] < BOUND


def test_a_comparison_that_allocates_without_end_stops_at_the_limit():
    """With all the time it wants: the kernel gives no more memory, and the worker lives on."""
    texts = [r"\boxed{(1+x)^{10^8}}", r"\boxed{2/4}", r"\boxed{2/4}"]
    with Verifier(timeout_s=100.0) as verifier:
        verdicts = verifier.score(texts, ["3", "0.5", "0.4"])
        [worker] = verifier._workers
        [used] = map(most_memory, forks(worker.process.pid))
    assert [v.score for v in verdicts] == [0.0, 1.0, 0.0]
    assert not any(v.timed_out for v in verdicts)
    assert 0.8 * MEMORY < used <= MEMORY


def test_nothing_was_run(outcome, mark):
    """The texts that would make a file have made none, there or where they ran."""
    assert list(mark.parent.iterdir()) == []


def test_nothing_tried_to_run(outcome):
    """Nor did the sandbox have to refuse anything that a text could have asked for."""
    lines = [line for line in outcome["errors"].splitlines() if "refused: " in line]
    assert {line.partition("refused: ")[2] for line in lines} <= set(HARMLESS)


def test_a_refusal_would_be_seen():
    script = (
        "from aent.sandbox import forbid_code\n"
        "def attempt():\n    try: eval('1 + 1')\n    except NotImplementedError: pass\n"
        "forbid_code()\nattempt()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=telling(),
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stderr == "refused: compile of <string>: b'1 + 1'\n"
