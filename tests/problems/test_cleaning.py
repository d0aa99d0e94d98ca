"""Cleaning on small files of the schemas of OpenR1-Math-220k, DeepMath-103K and MATH."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aent.config import ConfigError, parse
from aent.config.data import Cleaning, FileProblems
from aent.problems import Problem, ProblemError, prepare_problems, read_problems
from aent.problems.card import answer_type, describe_problems
from aent.problems.cleaning import Benchmarks, clean
from aent.problems.text import normalise, words

REAL = Path(os.environ.get("AENT_BENCHMARKS", Path(__file__).parents[3] / "shared/benchmarks"))
NAMES = ["aime24", "amc23", "math_500", "minerva", "olympiadbench"]


def own_problem(n: int) -> str:
    """A problem that nobody else has set."""
    return (
        f"A gardener plants ${n}$ rows of tulips, each with ${n + 3}$ bulbs, and the "
        f"{n}th winter frost kills exactly $\\frac{{1}}{{{n + 1}}}$ of all her rows. "
        f"How many of the bulbs in garden number {n} are left for the fair in spring?"
    )


def openr1_row(n: int, **changes: Any) -> dict[str, Any]:
    return {
        "problem": own_problem(n),
        "solution": f"There are {n} rows. Hence $\\boxed{{{n}}}$.",
        "answer": str(n),
        "problem_type": "Algebra",
        "question_type": "math-word-problem",
        "source": "olympiads",
        "uuid": f"00000000-0000-5000-8000-{n:012d}",
        "is_reasoning_complete": [True, False],
        "generations": ["<think>long</think>"] * 2,
        "correctness_math_verify": [True, False],
        "correctness_llama": None,
        "finish_reasons": None,
        "correctness_count": 1,
        "messages": [{"content": own_problem(n), "role": "user"}],
    } | changes


def deepmath_row(n: int, **changes: Any) -> dict[str, Any]:
    return {
        "question": own_problem(n),
        "final_answer": f"\\dfrac{{{n}}}{{7}}",
        "difficulty": 5.5,
        "topic": "Mathematics -> Algebra",
        "r1_solution_1": "first",
        "r1_solution_2": "second",
        "r1_solution_3": "third",
    } | changes


def math_row(n: int, **changes: Any) -> dict[str, Any]:
    return {
        "problem": own_problem(n),
        "level": "Level 3",
        "type": "Algebra",
        "solution": f"First \\boxed{{0}}, then $\\boxed{{{n}}}$.",
    } | changes


def source(path: Path, columns: dict[str, Any], **changes: Any) -> FileProblems:
    return FileProblems.model_validate(
        {"kind": "file", "path": path, "columns": columns, **changes}
    )


OPENR1 = {"problem": "problem", "answer": "answer", "id": "uuid"}
DEEPMATH = {"problem": "question", "answer": "final_answer", "level": "difficulty"}
MATH = {"problem": "problem", "answer": None, "solution": "solution", "level": "level"}


def test_openr1_schema(tmp_path: Path) -> None:
    rows = [openr1_row(n) for n in range(12)]
    rows += [
        openr1_row(20, answer=""),
        openr1_row(21, answer=None),
        openr1_row(22, answer="9^{9^{9^9}}!"),  # no verdict within the limit
        openr1_row(23, answer="\\text{}"),
        openr1_row(24, problem=own_problem(3).upper().replace(" ", "  ")),
        openr1_row(25, uuid=openr1_row(5)["uuid"]),
        openr1_row(26, problem="In the benchmark: " + own_problem(900)),
        openr1_row(27, answer="x = \\sqrt{2}"),
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "train-00000.parquet")
    config = source(
        tmp_path,
        OPENR1,
        cleaning={"unlike": ["exam"], "timeout_s": 0.5},
        shuffle_seed=3,
        limit=10,
    )
    exam = [Problem("e", own_problem(900), "1")]
    prepared = prepare_problems(config, {"exam": exam})
    counts = {step.name: (step.left, step.dropped) for step in prepared.steps}
    assert counts == {
        "read": (20, 0),
        "problem and answer": (18, 2),
        "answer verifies": (16, 2),
        "not a repeat": (14, 2),
        "not in a benchmark": (13, 1),
        "taken": (10, 0),
    }
    assert len(prepared.problems) == 10
    assert prepare_problems(config, {"exam": exam}) == prepared
    card = describe_problems(config, prepared)
    assert card["steps"][4] == {
        "name": "not in a benchmark",
        "left": 13,
        "dropped": 1,
        "by": {"exam": 1},
    }
    assert sum(card["answer_types"].values()) == 10
    assert card["lengths"]["problem_words"]["max"] == len(own_problem(1).split())
    assert json.loads(json.dumps(card)) == card


def test_deepmath_schema(tmp_path: Path) -> None:
    rows = [deepmath_row(n) for n in range(1, 9)] + [deepmath_row(2)]
    (tmp_path / "deep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = source(tmp_path / "deep.jsonl", DEEPMATH, cleaning={}, shuffle_seed=0, limit=6)
    prepared = prepare_problems(config, {})
    assert [step.left for step in prepared.steps] == [9, 9, 9, 8, 6]
    card = describe_problems(config, prepared)
    assert card["answer_types"] == {"fraction": 6}
    assert card["levels"] == {"5.5": 6}
    shuffled = source(tmp_path / "deep.jsonl", DEEPMATH, cleaning={}, shuffle_seed=1, limit=6)
    assert prepare_problems(shuffled, {}).problems != prepared.problems


def test_math_schema_keeps_all_of_train(tmp_path: Path) -> None:
    rows = [math_row(n) for n in range(5)]
    rows += [math_row(5, solution="So it is $\\boxed 5$."), math_row(6, solution="\\fbox{6}")]
    pd.DataFrame(rows).to_parquet(tmp_path / "math.parquet")
    prepared = prepare_problems(source(tmp_path / "math.parquet", MATH), {})
    assert [problem.answer for problem in prepared.problems] == [str(n) for n in range(7)]
    assert [step.name for step in prepared.steps] == ["read"]


def test_changed_columns_name_what_is_there(tmp_path: Path) -> None:
    pd.DataFrame([openr1_row(1)]).rename(columns={"answer": "gold"}).to_parquet(
        tmp_path / "new.parquet"
    )
    with pytest.raises(
        ProblemError, match=r"no column 'answer' for answer; found are .*'gold'"
    ) as e:
        prepare_problems(source(tmp_path / "new.parquet", OPENR1, cleaning={}), {})
    assert "name its column under columns.answer" in str(e.value)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps(openr1_row(1)) + "\n")
    config = source(tmp_path / "p.jsonl", OPENR1, cleaning={"unlike": ["exam"]})
    with pytest.raises(ProblemError, match=r"cleaning leaves nothing \(read: 1, .*benchmark: 0\)"):
        prepare_problems(config, {"exam": [Problem("e", own_problem(1), "1")]})


def disguise(text: str, way: int) -> str:
    """The same problem in other letters, spaces or LaTeX spacing."""
    if way % 5 == 0:
        return text
    if way % 5 == 1:
        return re.sub(r"(?<!\\)\b([a-z])(?=[a-z]* )", lambda m: m[1].upper(), text)
    if way % 5 == 2:
        return "  \n" + text.replace(" ", " \n\t ")
    if way % 5 == 3:
        return text.replace("=", "\\,=\\;").replace("+", "\\!+~").replace("$", "")
    return text.replace("\\frac", "\\dfrac").replace("(", "\\left(").replace(")", "\\right)")


def test_salted_set_loses_exactly_the_benchmark_problems() -> None:
    missing = [name for name in NAMES if not (REAL / f"{name}.jsonl").is_file()]
    if missing:
        pytest.skip(f"{REAL} lacks {missing}; AENT_BENCHMARKS names the folder")
    benchmarks = {name: read_problems(REAL / f"{name}.jsonl") for name in NAMES}
    generator = random.Random(0)
    salt = [
        Problem(f"salt{n}", disguise(problem.problem, n), problem.answer)
        for n, problem in enumerate(
            problem for name in NAMES for problem in generator.sample(benchmarks[name], 10)
        )
    ]
    boiler = "Let $m$ and $n$ be relatively prime positive integers. Find $m+n$."
    kept = [Problem(f"own{n}", f"{own_problem(n)} {boiler}", str(n)) for n in range(400)]
    mixed = [*kept, *salt]
    generator.shuffle(mixed)
    config = Cleaning(verifiable=False, unlike=NAMES)
    left, steps = clean(mixed, config, benchmarks)
    assert {problem.id for problem in mixed} - {p.id for p in left} == {p.id for p in salt}
    assert [problem for problem in mixed if problem.id.startswith("own")] == left
    assert steps[-1].dropped == 50
    assert sum((steps[-1].by or {}).values()) >= 50
    whole = Cleaning(verifiable=False, unlike=NAMES, ngram=None)
    assert len(clean(mixed, whole, benchmarks)[0]) == 400


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Find  $x$ .", "find x.", True),
        ("$\\dfrac{1}{2}\\,x$", "$\\frac{1}{2} x$", True),
        ("\\left( a \\right)", "(a)", True),
        ("\\leftarrow a", "arrow a", False),
        ("$x+1$", "$x-1$", False),
        ("costs \\$5", "costs 5", False),
        ("\\hspace{1cm}a\\quad b", "ab", True),
    ],
)
def test_what_is_the_same_text(one: str, other: str, same: bool) -> None:
    assert (normalise(one) == normalise(other)) == same


def test_runs_of_words() -> None:
    assert words("Let $x_{12} = \\frac{1}{2}$!") == ["let", "x", "12", "frac", "1", "2"]
    phrase = "one two three four five six"
    exam = [Problem("a", f"{phrase} apples", "1"), Problem("b", f"{phrase} pears", "2")]
    index = Benchmarks({"exam": exam, "again": exam[:1]}, 5)
    assert index.matches(f"so {phrase} plums") == []  # a phrase of two problems
    assert index.matches("three four five six apples today") == ["exam", "again"]
    assert index.matches("THREE four  five six pears") == ["exam"]
    assert Benchmarks({"exam": exam}, None).matches("three four five six pears") == []


def test_long_answers_do_not_verify() -> None:
    problems = [Problem("a", "?", "1" * 3000), Problem("b", "??", "2")]
    assert [p.id for p in clean(problems, Cleaning(), {})[0]] == ["b"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("-12", "integer"),
        ("$1,234$", "integer"),
        ("0.5", "decimal"),
        ("\\frac{3}{4}", "fraction"),
        ("45^\\circ", "percentage or degrees"),
        ("\\text{(C)}", "choice"),
        ("x \\leq 3", "equation or inequality"),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "pair, tuple or interval"),
        ("1, 2", "list"),
        ("\\text{Monday}", "words"),
        ("2\\sqrt{3}", "expression"),
    ],
)
def test_answer_types(answer: str, kind: str) -> None:
    assert answer_type(answer) == kind


def test_unlike_names_problem_sets() -> None:
    file = {"kind": "file", "path": "x.jsonl"}
    data = {
        "problems": {
            "a": file | {"cleaning": {"unlike": ["b", "absent", "a"]}},
            "b": file | {"cleaning": {"unlike": ["c"]}},
            "c": file,
        },
        "models": {"m": {"kind": "pretrained", "path": "owner/name"}},
        "settings": {"s": {"model": "m", "problems": "a", "evaluation": {"benchmarks": ["c"]}}},
        "methods": {"grpo": {"advantage": "grpo", "surrogate": "ppo_clip"}},
    }
    with pytest.raises(ConfigError) as caught:
        parse(data)
    text = str(caught.value)
    assert "problems.a.cleaning.unlike: unknown 'absent'" in text
    assert "problems.a.cleaning.unlike: unknown 'a'" in text
    assert "problems.a.cleaning.unlike: 'b' is itself compared with other sets" in text
