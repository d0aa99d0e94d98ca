"""Problem sets: synthetic, from files, or from the Hugging Face hub; cleaned and counted."""

from __future__ import annotations

from aent.problems.prepare import Prepared, load_problems, prepare_problems
from aent.problems.record import Problem, ProblemError, read_problems, write_problems

__all__ = [
    "Prepared",
    "Problem",
    "ProblemError",
    "load_problems",
    "prepare_problems",
    "read_problems",
    "write_problems",
]
