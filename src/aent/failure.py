"""What there is to look at after an update that was not finite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aent.experience import Experience
from aent.files import replacing


class NonFiniteError(RuntimeError):
    """A loss, gradient or weight is NaN or infinite; the update reaches no file.

    Attributes:
        rows: rows of the batch that the minibatch held.
        tensors: names of the tensors concerned -> number of their values that are not finite.
    """

    def __init__(self, message: str, rows: list[int], tensors: dict[str, int]):
        """Describe the place.

        Args:
            message: what is not finite, with its value.
            rows: rows of the batch that the minibatch held.
            tensors: see the class.
        """
        super().__init__(message)
        self.rows, self.tensors = rows, tensors


def write_dump(
    path: Path, step: int, experience: Experience, coefficient: float, error: NonFiniteError
) -> list[str]:
    """Write the minibatch that led to the error as JSON: a record a response, and the tensors.

    Numbers that JSON has no word for stand as NaN and Infinity, which Python's `json` reads.

    Returns:
        Ids of the minibatch's problems.

    Raises:
        aent.files.StorageError: the disk is full or gone.
    """
    samples = experience.rewards.shape[1]
    mask = experience.rollouts.response_mask
    ids = [experience.prompted[row // samples].problem.id for row in error.rows]

    def response(row: int) -> dict[str, Any]:
        problem = experience.prompted[row // samples].problem
        values = experience.values
        return {
            "row": row,
            "problem_id": problem.id,
            "prompt": problem.problem,
            "completion": experience.completions[row],
            "reward": float(experience.rewards[row // samples, row % samples]),
            "truncated": bool(experience.rollouts.truncated[row]),
            "tokens": experience.rollouts.response_ids[row][mask[row]].tolist(),
            "logprobs": experience.rollouts.logprobs[row][mask[row]].tolist(),
            "advantages": experience.estimate.advantages[row][mask[row]].tolist(),
            "values": None if values is None else values[row][mask[row]].tolist(),
        }

    record = {
        "step": step,
        "error": str(error),
        "coefficient": coefficient,
        "not_finite": error.tensors,
        "problems": list(dict.fromkeys(ids)),
        "responses": [response(row) for row in error.rows],
    }
    with replacing(path) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")
    return list(dict.fromkeys(ids))
