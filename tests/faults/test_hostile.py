"""Hundreds of hostile completions: scored, bounded, right where one can be, never run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import fork_memory

from aent.rewards import Verifier
from aent.verify_worker import MEMORY

SCRIPT = Path(__file__).with_name("hostile.py")
LIMIT_S = 0.3
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


@pytest.fixture(scope="module")
def mark(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile") / "made"


@pytest.fixture(scope="module")
def outcome(mark):
    """All families through the same workers, in a process of their own to measure memory."""
    command = [sys.executable, str(SCRIPT), str(mark), "2", str(LIMIT_S)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=mark.parent)
    return json.loads(done.stdout)


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
    assert all(over or score == 1 for _, _, score, over in hopeless)


def test_what_is_over_the_limit_earns_nothing_and_kills_no_other(outcome):
    cases = [case for cases in outcome["families"].values() for case in cases]
    over = [case for case in cases if case[3]]
    assert len(over) > 20  # or the table is no longer hostile
    assert all(score == 0 for _, _, score, _ in over)
    # The kernel's limit holds: all together use no more than their limits and the workers' start.
    assert outcome["cpu_s"] < LIMIT_S * len(cases)


def test_memory_stays_bounded(outcome):
    assert outcome["memory"] < MEMORY


def test_a_comparison_that_allocates_without_end_stops_at_the_limit():
    """With all the time it wants: the kernel gives no more memory, and the worker lives on."""
    texts = [r"\boxed{(1+x)^{10^8}}", r"\boxed{2/4}", r"\boxed{2/4}"]
    with Verifier(timeout_s=100.0) as verifier:
        verdicts = verifier.score(texts, ["3", "0.5", "0.4"])
        [used] = fork_memory(verifier)
    assert [v.score for v in verdicts] == [0.0, 1.0, 0.0]
    assert not any(v.timed_out for v in verdicts)
    assert 0.8 * MEMORY < used <= MEMORY


def test_nothing_was_run(outcome, mark):
    """The texts that would make a file have made none, there or where they ran."""
    assert list(mark.parent.iterdir()) == []
