"""The paper's claims (arXiv 2509.03493) as rules that can also say no.

Every rule is stated with its thresholds, which do not depend on the results. Differences between
methods are paired over seeds. A claim holds where the 95% Student t interval lies wholly on the
claimed side, fails where it lies wholly on the other, and is inconclusive in between.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from aent.analysis.findings import Finding, finding, sheet
from aent.analysis.intervals import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    REPRODUCED,
    Interval,
    above,
    below,
    every,
    student,
    within,
)
from aent.analysis.mdp_claims import mdp_findings
from aent.analysis.scores import (
    SELECTIONS,
    MissingDataError,
    select_checkpoints,
    setting_title,
    title,
)
from aent.analysis.times import run_times
from aent.config import Config
from aent.config.experiment import Claims
from aent.config.method import AdaptiveCoefficient

COLLAPSE = 0.5  # of the starting entropy: "falls to about half or less"
LITTLE = 0.02  # about the smallest gain of AEnt that the paper publishes (0.017, MATH-500, b)
IN_BAND = 0.75  # of the steps


def check_claims(
    config: Config,
    scores: pd.DataFrame,
    metrics: pd.DataFrame,
    values: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Check every claim in every setting of `config.claims`, those on the sweep where it is.

    Args:
        config: the configuration; `claims` must be there.
        scores: as `collect_scores` gives them.
        metrics: as `read_metrics` gives them.
        values: the synthetic problem's, as `aent.mdp.simulate` gives them; left out when absent.

    Returns:
        A row a claim and setting, the columns of `Finding`.

    Raises:
        MissingDataError: a run that a claim needs is missing.
    """
    if config.claims is None:
        raise MissingDataError("the configuration has no claims to check")
    found: list[Finding] = []
    for setting in config.claims.settings:
        case = Case(config, config.claims, setting, scores, metrics)
        found += [
            case.entropy_collapses(),
            case.plain_gains_little(),
            case.proposed_is_best(),
            case.entropy_stays_in_band(),
            case.coefficient_reacts(),
            case.proposed_is_faster(),
        ]
        if case.points:
            found += [case.larger_is_better(), case.every_value_beats_baseline()]
    if values is not None and config.mdp is not None:
        found += mdp_findings(config.mdp, values)
    return sheet(found)


class Case:
    """One setting's runs, and the claims about them."""

    def __init__(
        self,
        config: Config,
        claims: Claims,
        setting: str,
        scores: pd.DataFrame,
        metrics: pd.DataFrame,
    ):
        self.config, self.claims, self.setting = config, claims, setting
        self.scores = scores
        self.metrics = metrics[metrics["setting"] == setting]
        self.seeds = claims.seeds
        self.sweep = claims.sweep_in(setting)
        self.points = config.points_of(self.sweep, setting) if self.sweep else {}
        # Without repeats: the proposed method may be a point of its own sweep.
        methods = config.expand(claims.methods_in(setting), setting)
        chosen = select_checkpoints(config, setting, methods, claims.seeds, scores)
        self.averages = chosen.set_index(["method", "selection", "seed"])["average"]
        self.selections = [s for s in SELECTIONS if s in set(chosen["selection"])]
        self.baseline = title(config, setting, claims.baseline)
        self.plain = title(config, setting, claims.plain)
        self.proposed = title(config, setting, claims.proposed)
        self.heading = setting_title(config, setting)

    def entropy_collapses(self) -> Finding:
        """Figure 4: the policy entropy of the baseline falls."""
        starts, ends = [], []
        for seed in self.seeds:
            entropy = self._history(self.claims.baseline, seed)["entropy/full"].to_numpy()
            steps = len(entropy)
            starts.append(entropy[: max(1, steps // 20)].mean())
            ends.append(entropy[-max(1, steps // 10) :].mean())
        ratio = student(np.divide(ends, starts))
        return finding(
            "entropy_collapses",
            self.heading,
            f"The policy entropy collapses under {self.baseline}",
            f"mean entropy of the last tenth of the steps over that of the first twentieth is less "
            f"than {COLLAPSE:g}",
            f"{np.mean(starts):.3f} -> {np.mean(ends):.3f} nats, ratio {ratio.range()}",
            verdict=below(ratio, COLLAPSE),
            of=ratio,
        )

    def plain_gains_little(self) -> Finding:
        """Table 1: a constant bonus over the whole vocabulary gives little."""
        gains = self._gains(self.claims.plain, self.claims.baseline)
        return finding(
            "plain_gains_little",
            self.heading,
            f"{self.plain} gains little over {self.baseline}",
            f"difference of the average test scores at the best checkpoint lies within "
            f"±{LITTLE:g}; not reproduced where it lies wholly outside, on either side",
            self._by_selection(gains),
            verdict=within(gains["best"], LITTLE),
            of=gains["best"],
        )

    def proposed_is_best(self) -> Finding:
        """Table 1: the paper's method has the best average score."""
        rivals = {self.claims.baseline: self.baseline, self.claims.plain: self.plain}
        gains = {name: self._gains(self.claims.proposed, name) for name in rivals}
        numbers = "; ".join(
            f"against {rival}: {self._by_selection(gains[name])}" for name, rival in rivals.items()
        )
        closest = min((gain["best"] for gain in gains.values()), key=lambda gain: gain.mean)
        return finding(
            "proposed_is_best",
            self.heading,
            f"{self.proposed} has the best average test score",
            "differences of the average test scores at the best checkpoint to both other methods "
            "are above 0; not reproduced where one is wholly below",
            numbers,
            verdict=every(above(gain["best"], 0.0) for gain in gains.values()),
            of=closest,
        )

    def entropy_stays_in_band(self) -> Finding:
        """Figure 5: the adaptive coefficient holds the clamped entropy."""
        statement = f"The adaptive coefficient of {self.proposed} keeps the entropy in its band"
        text = (
            f"share of the steps after the warm-up whose measured entropy lies in [H_low, H_high] "
            f"is above {IN_BAND:g}"
        )
        rule = self._adaptive_rule()
        if rule is None:
            return self._not_adaptive("entropy_stays_in_band", statement, text)
        shares, means = [], []
        for seed in self.seeds:
            entropy = self._measured(seed).loc[rule.warmup_steps + 1 :, "entropy"]
            shares.append(entropy.between(rule.low, rule.high).mean())
            means.append(entropy.mean())
        share = student(shares)
        return finding(
            "entropy_stays_in_band",
            self.heading,
            statement,
            text,
            f"share {share.range()} in [{rule.low:g}, {rule.high:g}] nats; "
            f"mean {np.mean(means):.3f} nats",
            verdict=above(share, IN_BAND),
            of=share,
        )

    def coefficient_reacts(self) -> Finding:
        """The controller moves lambda against the excursion, inside its box."""
        statement = f"The coefficient of {self.proposed} reacts against excursions from the band"
        text = (
            "past the warm-up, after a step with an entropy below the band lambda rises or stands "
            "at its maximum, above the band it falls or stands at its minimum, and it never leaves "
            "its box; one exception refutes it; inconclusive where the entropy stayed in the band"
        )
        rule = self._adaptive_rule()
        if rule is None:
            return self._not_adaptive("coefficient_reacts", statement, text)
        right = wrong = outside = 0
        for seed in self.seeds:
            history = self._measured(seed)
            tolerance = 1e-9 * max(rule.max, 1e-9)
            box = history["coefficient"].between(rule.min - tolerance, rule.max + tolerance)
            outside += int((~box).sum())
            found = reactions(history.loc[rule.warmup_steps + 1 :], rule)
            right, wrong = right + int(found.sum()), wrong + int((~found).sum())
        verdict = INCONCLUSIVE if right == 0 else REPRODUCED
        if wrong or outside:
            verdict = NOT_REPRODUCED
        share = right / (right + wrong) if right + wrong else math.nan
        return Finding(
            "coefficient_reacts",
            self.heading,
            statement,
            text,
            f"{right} of {right + wrong} reactions right, {outside} steps outside the box "
            f"[{rule.min:g}, {rule.max:g}]",
            verdict,
            estimate=share,
            seeds=len(self.seeds),
        )

    def larger_is_better(self) -> Finding:
        """Figure 6: a larger clamping percentage tends to be better."""
        values = list(self.points.values())
        statement = f"A larger {self._swept_label()} is better"
        rule = (
            "slope of the average test score at the best checkpoint against the value (least "
            "squares a seed) is above 0"
        )
        if len(set(values)) < 2:
            numbers = f"only {values} swept: no slope"
            return Finding("larger_is_better", self.heading, statement, rule, numbers, INCONCLUSIVE)
        slopes = {
            selection: student(
                np.polyfit(values, [self.averages[m, selection, seed] for m in self.points], 1)[0]
                for seed in self.seeds
            )
            for selection in self.selections
        }
        return finding(
            "larger_is_better",
            self.heading,
            statement,
            rule,
            f"slope from {min(values):g} to {max(values):g}: {self._by_selection(slopes)}",
            verdict=above(slopes["best"], 0.0),
            of=slopes["best"],
        )

    def every_value_beats_baseline(self) -> Finding:
        """Figure 6: every clamping percentage beats the baseline."""
        gains = {
            value: self._gain(method, self.claims.baseline, "best")
            for method, value in self.points.items()
            if value > 0
        }
        closest = min(gains.values(), key=lambda gain: gain.mean, default=student([]))
        return finding(
            "every_value_beats_baseline",
            self.heading,
            f"Every {self._swept_label()} beats {self.baseline}",
            "for each value above 0 the difference of the average test scores at the best "
            "checkpoint is above 0; not reproduced where one is wholly below",
            "; ".join(f"{value:g}: {gain.range()}" for value, gain in gains.items()),
            verdict=every(above(gain, 0.0) for gain in gains.values()),
            of=closest,
        )

    def proposed_is_faster(self) -> Finding:
        """Table 2: less time to the baseline's highest score."""
        claims = self.claims
        methods = [claims.baseline, claims.proposed]
        times = run_times(
            self.config,
            self.setting,
            methods,
            self.seeds,
            baseline=claims.baseline,
            scores=self.scores,
            metrics=self.metrics,
        ).set_index(["method", "seed"])
        base = times.loc[claims.baseline].loc[self.seeds]
        ours = times.loc[claims.proposed].loc[self.seeds]
        reached = np.isfinite(ours["to_baseline"])
        # A run that never gets there takes at least its whole time.
        hours = ours["to_baseline"].where(reached, ours["total"])
        logs = student(np.log(hours / base["to_own"]))
        ratio = Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high), logs.number)
        verdict = below(ratio, 1.0)
        if not reached.any():
            verdict = NOT_REPRODUCED
        elif not reached.all() and verdict == REPRODUCED:
            verdict = INCONCLUSIVE
        unreached = "" if reached.all() else ", a lower bound"
        return finding(
            "proposed_is_faster",
            self.heading,
            f"{self.proposed} reaches {self.baseline}'s best score in less time",
            "device time to the first checkpoint with the baseline's best average test score (same "
            "seed), over the baseline's own: geometric mean below 1; a run that never gets there "
            "counts with its whole time and rules out the claim's success, all of them refute it",
            f"ratio {ratio.range()}{unreached}; reached by {int(reached.sum())} of "
            f"{len(self.seeds)} seeds",
            verdict=verdict,
            of=ratio,
        )

    def _gain(self, method: str, other: str, selection: str) -> Interval:
        """Paired differences of the average test scores, method minus other."""
        return student(
            self.averages[method, selection, seed] - self.averages[other, selection, seed]
            for seed in self.seeds
        )

    def _gains(self, method: str, other: str) -> dict[str, Interval]:
        return {selection: self._gain(method, other, selection) for selection in self.selections}

    def _by_selection(self, intervals: dict[str, Interval]) -> str:
        return ", ".join(f"{SELECTIONS[key]} {value.range()}" for key, value in intervals.items())

    def _history(self, method: str, seed: int) -> pd.DataFrame:
        own = self.metrics[(self.metrics["method"] == method) & (self.metrics["seed"] == seed)]
        if own.empty:
            raise MissingDataError(f"{self.setting}/{method}/seed{seed}: no metrics")
        return own.set_index("step")

    def _measured(self, seed: int) -> pd.DataFrame:
        """The entropy that the proposed method's rule looks at, and lambda; index step."""
        term = self.config.method(self.setting, self.claims.proposed).entropy
        history = self._history(self.claims.proposed, seed)
        return pd.DataFrame(
            {
                "entropy": history[term.metric if term else "entropy/clamped"],
                "coefficient": history["entropy/coefficient"],
            }
        )

    def _adaptive_rule(self) -> AdaptiveCoefficient | None:
        term = self.config.method(self.setting, self.claims.proposed).entropy
        rule = term.coefficient if term else None
        return rule if isinstance(rule, AdaptiveCoefficient) else None

    def _not_adaptive(self, claim: str, statement: str, rule: str) -> Finding:
        numbers = f"{self.proposed} has no adaptive coefficient here"
        return Finding(claim, self.heading, statement, rule, numbers, INCONCLUSIVE)

    def _swept_label(self) -> str:
        assert self.sweep is not None
        return self.config.sweeps[self.sweep].label


def reactions(history: pd.DataFrame, rule: AdaptiveCoefficient) -> pd.Series:
    """For each excursion from the band, whether lambda then moved the right way.

    Args:
        history: entropy measured in a step and the coefficient used in it, index step. The
            coefficient moves after the step, so the reaction shows in the next row.
        rule: band and box.

    Returns:
        A boolean a step outside the band that has a successor, index step.
    """
    entropy, now = history["entropy"], history["coefficient"]
    after = now.shift(-1)
    tolerance = 1e-9 * max(rule.max, 1e-9)
    rises = (after > now) | (after >= rule.max - tolerance)
    falls = (after < now) | (after <= rule.min + tolerance)
    below_band, above_band = entropy < rule.low, entropy > rule.high
    right = (below_band & rises) | (above_band & falls)
    return right[(below_band | above_band) & after.notna()]
