"""Problem sets: where problems with checkable answers come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from aent.config.base import Strict

Family = Literal["story", "chain"]
Tier = Literal[1, 2, 3]
Split = Literal["train", "validation", "test"]


class SyntheticProblems(Strict):
    """Procedurally generated problems with step-by-step solutions; no download."""

    kind: Literal["synthetic"]
    title: str | None = None
    """Name in tables and figures; the set's own name when absent."""
    families: list[Family] = Field(default=["story", "chain"], min_length=1)
    """`story`: a running count changed by gains and losses; `chain`: modular arithmetic chains."""
    tiers: list[Tier] = Field(default=[1, 2, 3], min_length=1)
    """Difficulty tiers, drawn in equal shares."""
    split: Split = "train"
    """Problems of different splits never coincide (decided by a hash of the problem)."""
    count: int = Field(default=1000, ge=1)
    """Number of distinct problems."""
    seed: int = 0
    """Seed of the generator."""


class Columns(Strict):
    """Which columns of the source hold the fields of a record."""

    problem: str = "problem"
    """Column with the problem's text."""
    answer: str | None = "answer"
    """Column with the final answer; null takes it from the last \\boxed{} of the solution."""
    solution: str | None = None
    """Column with a worked solution, if any."""
    level: str | None = None
    """Column with a difficulty level, if any."""
    id: str | None = None
    """Column with an identifier; the row's number when absent."""

    @model_validator(mode="after")
    def _answer_has_a_source(self) -> Columns:
        if self.answer is None and self.solution is None:
            raise ValueError("answer is null, so solution must name a column to take it from")
        return self


class FileProblems(Strict):
    """Problems in a local jsonl or parquet file."""

    kind: Literal["file"]
    title: str | None = None
    """Name in tables and figures; the set's own name when absent."""
    path: Path
    """A .jsonl or .parquet file."""
    columns: Columns = Columns()
    """Which columns hold what."""
    limit: int | None = Field(default=None, ge=1)
    """Take this many records after the shuffle; all when absent."""
    shuffle_seed: int | None = None
    """Shuffle with this seed before the limit; file order when absent."""


class HubProblems(Strict):
    """Problems in a data set on the Hugging Face hub."""

    kind: Literal["hub"]
    title: str | None = None
    """Name in tables and figures; the set's own name when absent."""
    id: str = Field(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")
    """Data set id, `owner/name`."""
    revision: str = "main"
    """Commit or tag to pin."""
    subset: str | None = None
    """The data set's configuration, where it has several."""
    split: str = "train"
    """The data set's split."""
    columns: Columns = Columns()
    """Which columns hold what."""
    limit: int | None = Field(default=None, ge=1)
    """Take this many records after the shuffle; all when absent."""
    shuffle_seed: int | None = None
    """Shuffle with this seed before the limit; source order when absent."""


Problems = Annotated[SyntheticProblems | FileProblems | HubProblems, Field(discriminator="kind")]
