import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aent.boxed import last_boxed
from aent.config import SyntheticProblems
from aent.config.data import Split
from aent.problems import ProblemError, load_problems
from aent.problems.synthetic import (
    _LARGEST,
    direct_solution,
    first_words,
    generate,
    partial_solutions,
    vocabulary,
)

SOLUTION = r"begin 19 first +3 22 second -2 20 so \boxed{ 20 }"


def config(**changes: object) -> SyntheticProblems:
    return SyntheticProblems.model_validate({"kind": "synthetic", "count": 300, **changes})


def core(problem: str) -> tuple[str, ...]:
    """The family and all numbers and operations of a problem, read from its text alone."""
    signs = {
        "+": "gains finds gets wins add plus",
        "-": "gives loses drops sells subtract minus",
        "x": "multiplies times",
    }
    operation = {verb: sign for sign, verbs in signs.items() for verb in verbs.split()}
    words = problem.split()
    kept = [operation.get(word, word) for word in words if word.isdigit() or word in operation]
    return ("chain" if "modulo" in words else "story", *kept)


def answer(problem: str) -> int:
    """The answer, worked out from the problem's text alone."""
    family, *tokens = core(problem)
    value = int(tokens.pop(0))
    modulus = int(tokens.pop(0)) if family == "chain" else 10**9
    for sign, amount in zip(tokens[::2], map(int, tokens[1::2]), strict=True):
        value = {"+": value + amount, "-": value - amount, "x": value * amount}[sign] % modulus
    return value


@given(seed=st.integers(0, 10**6), split=st.sampled_from(["train", "validation", "test"]))
def test_answers_follow_from_the_problem(seed: int, split: Split) -> None:
    for problem in generate(config(count=12, seed=seed, split=split)):
        assert problem.solution is not None
        assert problem.answer == last_boxed(problem.solution) == str(answer(problem.problem))
        assert 0 <= int(problem.answer) <= _LARGEST
        assert {*problem.problem.split(), *problem.solution.split()} <= {
            *vocabulary(),
            *first_words(),
        }
        assert problem.problem.split()[0] in first_words()


def test_solutions_show_every_value_on_the_way() -> None:
    for problem in generate(config(families=["story"])):
        assert problem.solution is not None
        words = problem.solution.split()
        values = [int(word) for word in words[1:-4:3]]
        for before, step, after in zip(values, words[3:-4:3], values[1:], strict=False):
            amount = int(step[1:])
            assert after == (before * amount if step[0] == "x" else before + int(step))
        assert values[-1] == int(problem.answer)


def test_splits_never_coincide() -> None:
    """Compared by what the text asks, over thousands of problems of several seeds."""
    cores: dict[str, set[tuple[str, ...]]] = {}
    for split, counts in {"train": 6000, "validation": 1500, "test": 1500}.items():
        sets = [generate(config(split=split, count=counts, seed=seed)) for seed in (0, 1)]
        cores[split] = {core(problem.problem) for problem in itertools.chain(*sets)}
        assert len(cores[split]) > counts
    for one, other in itertools.combinations(cores.values(), 2):
        assert not one & other


def test_problems_are_distinct_and_in_equal_shares() -> None:
    problems = generate(config(count=601))
    assert len({problem.id for problem in problems}) == 601
    assert len({core(problem.problem) for problem in problems}) == 601
    shares = [
        sum(p.level == tier and p.id.startswith(family) for p in problems)
        for tier in (1, 2, 3)
        for family in ("story", "chain")
    ]
    assert shares == [101, 100, 100, 100, 100, 100]


def test_tiers_are_numbers_of_steps() -> None:
    for tier, lengths in {1: {1, 2}, 2: {3, 4}, 3: {5, 6}}.items():
        problems = generate(config(tiers=[tier]))
        assert {problem.problem.count(" . ") - 1 for problem in problems} == lengths
        assert {problem.level for problem in problems} == {tier}


def test_the_seed_decides() -> None:
    assert generate(config(seed=3)) == generate(config(seed=3))
    assert generate(config(seed=3)) != generate(config(seed=4))
    assert load_problems(config(seed=3)) == generate(config(seed=3))


def test_too_small_a_space_is_an_error_that_names_the_key() -> None:
    with pytest.raises(ProblemError, match=r"problems\.count: 3000 .*chain, tier 1, split test"):
        generate(config(tiers=[1], families=["chain"], split="test", count=3000))


def test_shortened_solutions() -> None:
    assert partial_solutions(SOLUTION) == [
        r"begin 19 so \boxed{ 19 }",
        r"begin 19 first +3 22 so \boxed{ 22 }",
    ]
    assert direct_solution(SOLUTION) == r"so \boxed{ 20 }"


@pytest.mark.parametrize("solution", ["", r"\boxed{ 20 }", SOLUTION.replace("first", "next")])
def test_other_solutions_cannot_be_shortened(solution: str) -> None:
    with pytest.raises(ProblemError, match="not a solution of a synthetic problem"):
        direct_solution(solution)
