"""Problem sets: where problems with checkable answers come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aent.config.base import Name, SafePath, SafePathText, Seed, Strict, Text, Unique

Family = Literal["story", "chain"]
Tier = Literal[1, 2, 3]
Split = Literal["train", "validation", "test"]


class SyntheticProblems(Strict):
    """Procedurally generated problems with step-by-step solutions; no download."""

    kind: Literal["synthetic"]
    title: Text | None = None
    """Name in tables and figures; the set's own name when absent."""
    families: list[Family] = Field(default=["story", "chain"], min_length=1)
    """`story`: a running count changed by gains and losses; `chain`: modular arithmetic chains."""
    tiers: list[Tier] = Field(default=[1, 2, 3], min_length=1)
    """Difficulty tiers, drawn in equal shares."""
    split: Split = "train"
    """Problems of different splits never coincide (decided by a hash of the problem)."""
    count: int = Field(default=1000, ge=1)
    """Number of distinct problems."""
    seed: Seed = 0
    """Seed of the generator."""


class Columns(Strict):
    """Which columns of the source hold the fields of a record."""

    problem: Text = "problem"
    """Column with the problem's text."""
    answer: Text | None = "answer"
    """Column with the final answer; null takes it from the last \\boxed{} of the solution."""
    solution: Text | None = None
    """Column with a worked solution, if any."""
    level: Text | None = None
    """Column with a difficulty level, if any."""
    id: Text | None = None
    """Column with an identifier; the row's number when absent."""

    @model_validator(mode="after")
    def _answer_has_a_source(self) -> Columns:
        if self.answer is None and self.solution is None:
            raise ValueError("answer is null, so solution must name a column to take it from")
        return self


class Cleaning(Strict):
    """Filters of a problem set, in the order of the keys; the data card counts what each drops.

    Records without a problem or an answer are dropped too; without cleaning they are errors.
    """

    verifiable: bool = True
    """Drop problems whose answer math-verify cannot read, or does not find equal to itself. What it
    cannot read as a formula it compares as text: an answer in words verifies."""
    timeout_s: float = Field(default=5.0, gt=0)
    """CPU seconds for the check of one answer; one that takes longer is dropped."""
    distinct: bool = True
    """Of problems with the same id or the same normalised text, keep the first."""
    unlike: Annotated[list[Name], Unique] = []
    """Problem sets, benchmarks mostly, whose problems are dropped: same normalised text, or a run
    of words in common that stands in one of their problems only."""
    ngram: int | None = Field(default=13, ge=5)
    """Words of a run; null for the comparison of whole texts alone."""
    workers: int = Field(default=1, ge=1)
    """Processes that check answers."""


class Sourced(Strict):
    """What sets of existing problems have in common."""

    title: Text | None = None
    """Name in tables and figures; the set's own name when absent."""
    columns: Columns = Columns()
    """Which columns hold what."""
    cleaning: Cleaning | None = None
    """Filters; none when absent, and then every record must be whole."""
    limit: int | None = Field(default=None, ge=1)
    """Take this many records after cleaning and shuffle; all when absent."""
    shuffle_seed: Seed | None = None
    """Shuffle with this seed before the limit; source order when absent."""


class FileProblems(Sourced):
    """Problems in local jsonl or parquet files."""

    kind: Literal["file"]
    path: SafePath
    """A .jsonl or .parquet file, or a folder of them, read in the order of their names."""


class HubProblems(Sourced):
    """Problems in a data set on the Hugging Face hub."""

    kind: Literal["hub"]
    id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200
    )
    """Data set id, `owner/name`."""
    revision: SafePathText = "main"
    """Commit to take; `aent pin` writes it in. A tag or branch goes too, with a warning, and the
    commit that it stood at when it was fetched is recorded in the data card."""
    subset: Text | None = None
    """The data set's configuration, where it has several."""
    split: Text = "train"
    """The data set's split."""
    records: int | None = Field(default=None, ge=1)
    """Records that the split is known to hold, for `aent plan`, which looks at no hub. A split of
    another size is used all the same, with a warning."""


Problems = Annotated[SyntheticProblems | FileProblems | HubProblems, Field(discriminator="kind")]
