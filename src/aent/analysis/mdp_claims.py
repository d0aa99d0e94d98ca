"""Figure 1's claims (arXiv 2509.03493) on the synthetic decision problem, by strength and clamp."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from aent.analysis.findings import Finding
from aent.analysis.intervals import INCONCLUSIVE, Interval, above, below, every, student
from aent.config.experiment import Mdp

MARGIN = 0.01  # of the expected reward
MANY, FEW = 10, 5  # optimal actions between which the paper sees entropy stop helping


def mdp_findings(config: Mdp, values: pd.DataFrame) -> Iterator[Finding]:
    """Check both claims for every strength and clamp.

    Args:
        config: the problem.
        values: as `aent.mdp.simulate` gives them.
    """
    final = values[values["step"] == values["step"].max()]
    for coefficient in config.coefficients:
        for keep in config.keep:
            yield from _check(config, final, coefficient, keep)


def _check(config: Mdp, final: pd.DataFrame, coefficient: float, keep: float) -> Iterator[Finding]:
    ends = {
        name: {n: _final(final, n, *name) for n in config.optimal}
        for name in [
            ("none", 0.0, None),
            ("entropy", coefficient, None),
            ("clamped", coefficient, keep),
        ]
    }
    none, plain, clamped = ends.values()
    plain_gains = {n: student(plain[n] - none[n]) for n in config.optimal}
    clamped_gains = {n: student(clamped[n] - none[n]) for n in config.optimal}
    many = [n for n in config.optimal if n >= MANY]
    few = [n for n in config.optimal if n <= FEW]
    setting = f"Synthetic, lambda {coefficient:g}, top {100 * keep:g}% kept"
    parts = [above(plain_gains[n], MARGIN) for n in many]
    parts += [below(plain_gains[n], MARGIN) for n in few]
    parts += [above(clamped_gains[n], MARGIN) for n in few]
    yield Finding(
        "clamped_helps_where_entropy_stops",
        setting,
        f"With {MANY} or more optimal actions entropy regularisation helps; with {FEW} or fewer it "
        "stops helping and clamped entropy still helps",
        f"gain is the final expected reward minus that without regularisation: entropy's gain is "
        f"above {MARGIN:g} at every number of {MANY} or more and below it at every number of {FEW} "
        f"or fewer, clamped entropy's is above it at every number of {FEW} or fewer; not "
        "reproduced where one of these is wholly on the other side",
        f"gain of entropy {_show(plain_gains)}; of clamped entropy {_show(clamped_gains)}",
        every(parts) if many and few else INCONCLUSIVE,
        seeds=len(config.seeds),
    )
    leads = {n: student(clamped[n] - plain[n]) for n in few}
    yield Finding(
        "clamped_beats_entropy_when_sparse",
        setting,
        f"With {FEW} or fewer optimal actions clamped entropy regularisation beats that with the "
        "whole entropy",
        f"difference of the final expected rewards is above {MARGIN:g} at every number of {FEW} or "
        "fewer; not reproduced where one is wholly below",
        _show(leads) or f"no number of optimal actions of {FEW} or fewer",
        every(above(lead, MARGIN) for lead in leads.values()),
        seeds=len(config.seeds),
    )


def _final(
    final: pd.DataFrame, number: int, kind: str, coefficient: float, keep: float | None
) -> pd.Series:
    """Final expected rewards, index seed."""
    rows = (final["optimal"] == number) & (final["regulariser"] == kind)
    rows &= final["coefficient"] == coefficient
    rows &= final["keep"].isna() if keep is None else final["keep"] == keep
    return final[rows].set_index("seed")["value"]


def _show(gains: dict[int, Interval]) -> str:
    return ", ".join(f"{number}: {gain.range(2)}" for number, gain in gains.items())
