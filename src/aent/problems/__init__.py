"""Problem sets: synthetic, from a file, or from the Hugging Face hub."""

from __future__ import annotations

from aent.config import Problems, SyntheticProblems
from aent.config.data import FileProblems
from aent.problems.hub import load_file, load_hub
from aent.problems.record import Problem, ProblemError, read_problems, write_problems
from aent.problems.synthetic import generate


def load_problems(config: Problems) -> list[Problem]:
    """The problems that a configuration describes.

    Raises:
        ProblemError: they cannot be read or generated; the message names the place.
    """
    if isinstance(config, SyntheticProblems):
        return generate(config)
    if isinstance(config, FileProblems):
        return load_file(config)
    return load_hub(config)


__all__ = ["Problem", "ProblemError", "load_problems", "read_problems", "write_problems"]
