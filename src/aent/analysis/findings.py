"""What was found about one claim in one setting, and the sheet that lists all findings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd

from aent.analysis.intervals import Interval
from aent.files import replacing


@dataclass(frozen=True)
class Finding:
    """One row of the claims sheet.

    Attributes:
        claim: short name of the claim.
        setting: where it was checked.
        statement: what the paper claims.
        rule: what decides it here, with thresholds.
        numbers: ours, in words.
        verdict: `reproduced`, `not reproduced` or `inconclusive`.
        estimate: the deciding number, mean over seeds; NaN where several numbers decide.
        low: lower end of its 95% confidence interval.
        high: upper end.
        seeds: how many seeds it rests on.
    """

    claim: str
    setting: str
    statement: str
    rule: str
    numbers: str
    verdict: str
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0


def finding(
    claim: str, setting: str, statement: str, rule: str, numbers: str, *, verdict: str, of: Interval
) -> Finding:
    """A finding that one interval decides."""
    ends = (of.mean, of.low, of.high, of.number)
    return Finding(claim, setting, statement, rule, numbers, verdict, *ends)


def sheet(findings: Iterable[Finding]) -> pd.DataFrame:
    """The findings as a frame, a column a field."""
    columns = [field.name for field in fields(Finding)]
    return pd.DataFrame([asdict(found) for found in findings], columns=columns)


def write_claims(claims: pd.DataFrame, stem: Path | str) -> None:
    """Write `stem.csv` and `stem.md`.

    Raises:
        aent.files.StorageError: the disk is full or gone.
    """
    with replacing(Path(f"{stem}.csv")) as partial:
        claims.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    with replacing(Path(f"{stem}.md")) as partial:
        partial.write_text(markdown(claims))


def markdown(claims: pd.DataFrame) -> str:
    """The claims sheet as GitHub Markdown: a table a setting, then the rules."""
    lines = [
        "# The paper's claims",
        "",
        "Checked on these runs, by rules whose thresholds are fixed in the code. Intervals are 95% "
        "Student t intervals over seeds; differences are paired by seed. No correction is made for "
        "the number of claims.",
    ]
    for setting, rows in claims.groupby("setting", sort=False):
        lines += ["", f"## {setting}", ""]
        lines += ["| Claim | Verdict | Our numbers |", "| --- | --- | --- |"]
        for row in rows.itertuples():
            cells = [row.statement, f"**{row.verdict}**", row.numbers]
            lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "## Rules", ""]
    for row in claims.drop_duplicates("statement").itertuples():
        lines.append(f"- {row.statement}: {row.rule}")
    return "\n".join(lines) + "\n"
