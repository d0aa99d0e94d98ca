"""The data card of a problem set: where it comes from, what each filter dropped, what is in it."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from aent.config.data import Problems
from aent.problems.prepare import Prepared
from aent.problems.record import Problem

# The first that fits is an answer's type.
TYPES = {
    "integer": re.compile(r"[+-]?(?:\d+|\d{1,3}(?:\{?,\}?\d{3})+)"),
    "decimal": re.compile(r"[+-]?\d*\.\d+"),
    "fraction": re.compile(r"[+-]?(?:\\[dt]?frac\{?-?\d+\}?\{?-?\d+\}?|-?\d+/-?\d+)"),
    "percentage or degrees": re.compile(r"[+-]?[\d.]+(?:\\?%|\^\{?\\circ\}?|\\degree)"),
    "choice": re.compile(r"\(?[A-E]\)?|\\(?:text|mathrm|textbf)\{\(?[A-E]\)?\}"),
    "equation or inequality": re.compile(
        r".*(?:[=<>]|\\[lg]e(?:q|qslant)?(?![a-z])|\\ne(?![a-z])).*"
    ),
    "set": re.compile(r"\\\{.*\\\}"),
    "matrix": re.compile(r".*\\begin\{[a-zA-Z]*matrix\}.*"),
    "pair, tuple or interval": re.compile(r"[(\[].*,.*[)\]]"),
    "list": re.compile(r"[^()]*,[^()]*"),
    "words": re.compile(r"\\(?:text|mathrm|textbf)\{[^{}]*\}|[A-Za-z]{2,}[A-Za-z .'-]*"),
}
OTHER = "expression"
LEVELS = 20
"""Levels are counted where there are no more different ones."""

_SPACING = re.compile(r"(?:\\(?:left|right)(?![a-zA-Z])|\\[!,;:]|(?<!\\)\$)+")


def answer_type(answer: str) -> str:
    """What an answer looks like; `expression` where it is nothing simpler."""
    text = _SPACING.sub("", answer).strip().rstrip(".")
    bare = "".join(text.split())
    for name, pattern in TYPES.items():
        if pattern.fullmatch(text if name == "words" else bare):
            return name
    return OTHER


def describe_problems(config: Problems, prepared: Prepared) -> dict[str, Any]:
    """The card, as it is written to json.

    Returns:
        source (the configuration's keys and the commit), steps (records left by and dropped by
        each), lengths (words of problems and characters of answers: min, median, mean, p95, max),
        answer_types and levels (counts, most frequent first).
    """
    problems = prepared.problems
    levels = Counter(str(p.level) for p in problems if p.level is not None)
    return {
        "source": config.model_dump(mode="json", exclude={"title"}) | {"commit": prepared.commit},
        "steps": [asdict(step) for step in prepared.steps],
        "lengths": {
            "problem_words": _spread(len(p.problem.split()) for p in problems),
            "problem_characters": _spread(len(p.problem) for p in problems),
            "answer_characters": _spread(len(p.answer) for p in problems),
        },
        "answer_types": dict(Counter(map(_type_of, problems)).most_common()),
        "levels": dict(levels.most_common()) if len(levels) <= LEVELS else {},
    }


def _type_of(problem: Problem) -> str:
    return answer_type(problem.answer)


def _spread(values: Iterable[int]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "min": ordered[0],
        "median": statistics.median(ordered),
        "mean": round(statistics.fmean(ordered), 2),
        "p95": ordered[int(0.95 * (len(ordered) - 1))],
        "max": ordered[-1],
    }
