import math
import re

import numpy as np
import pandas as pd
import pytest

from aent.analysis.claims import check_claims, reactions
from aent.analysis.findings import markdown, write_claims
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
from aent.analysis.scores import MissingDataError
from aent.config import parse
from aent.config.experiment import Mdp

METHODS = ["grpo", "entreg", "aent", "aent-drop0", "aent-drop0.25", "aent-drop0.5"]
WOBBLE = [0.0, 0.001, -0.001]  # over seeds: a narrow interval, half 0.0025
NOISE = [0.0, 0.2, -0.2]  # over seeds: a wide one, half 0.5


@pytest.fixture
def check(config, synthetic):
    """Claims of results given as average scores (per seed) and metrics of some methods."""

    def run(scores=None, metrics=None, config=config):
        curves = {}
        for method in METHODS:
            for seed in range(3):
                given = (scores or {}).get(method, [0.5] * 3)[seed]
                curves[method, seed] = given if isinstance(given, dict) else {10: given, 20: 0.1}
        frames = {}
        for method in METHODS:
            for seed in range(3):
                values = (metrics or {}).get(method, {})
                values = values(seed) if callable(values) else values
                frames[method, seed] = values
        defaults = {"entropy/full": 0.25, "entropy/clamped": 0.25, "entropy/coefficient": 0.02}
        history = synthetic.metrics_of(frames, **defaults)
        return check_claims(config, synthetic.scores_of(curves), history).set_index("claim")

    return run


def level(center, spread):
    return [center + change for change in spread]


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ([0.30, 0.31, 0.29], REPRODUCED),
        ([0.90, 0.91, 0.89], NOT_REPRODUCED),
        ([0.30, 0.70, 0.50], INCONCLUSIVE),
    ],
)
def test_entropy_collapses(check, ends, verdict):
    # 20 steps: the first twentieth is step 1, the last tenth are steps 19 and 20
    found = check(metrics={"grpo": lambda s: {"entropy/full": [1.0] + [0.6] * 17 + [ends[s]] * 2}})
    row = found.loc["entropy_collapses"]
    assert row["verdict"] == verdict
    assert row["estimate"] == pytest.approx(np.mean(ends))
    assert row["numbers"].startswith(f"1.000 -> {np.mean(ends):.3f} nats")


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        (level(0.505, WOBBLE), REPRODUCED),
        (level(0.56, WOBBLE), NOT_REPRODUCED),
        (level(0.44, WOBBLE), NOT_REPRODUCED),  # it harms: not "little" either
        (level(0.505, NOISE), INCONCLUSIVE),
    ],
)
def test_plain_gains_little(check, scores, verdict):
    row = check({"entreg": scores}).loc["plain_gains_little"]
    assert row["verdict"] == verdict
    assert row["estimate"] == pytest.approx(np.mean(scores) - 0.5)


@pytest.mark.parametrize(
    ("aent", "entreg", "verdict"),
    [
        (level(0.6, WOBBLE), [0.55] * 3, REPRODUCED),
        (level(0.6, WOBBLE), [0.65] * 3, NOT_REPRODUCED),  # better than GRPO, not than EntReg
        (level(0.6, NOISE), [0.55] * 3, INCONCLUSIVE),
        ([0.5] * 3, [0.5] * 3, INCONCLUSIVE),
    ],
)
def test_proposed_is_best(check, aent, entreg, verdict):
    row = check({"aent": aent, "entreg": entreg}).loc["proposed_is_best"]
    assert row["verdict"] == verdict
    assert "against GRPO: best checkpoint" in row["numbers"]
    assert "last" in row["numbers"]


def test_gains_are_paired_over_seeds_and_given_for_every_checkpoint(check):
    noisy = [0.3, 0.5, 0.7]
    better = [{10: value + 0.05, 20: 0.2} for value in noisy]
    row = check({"grpo": noisy, "entreg": noisy, "aent": better}).loc["proposed_is_best"]
    assert row["verdict"] == REPRODUCED  # the spread of the seeds is shared
    assert (row["estimate"], row["low"], row["seeds"]) == pytest.approx((0.05, 0.05, 3))
    assert "last 0.100 [0.100, 0.100]" in row["numbers"]


@pytest.mark.parametrize(
    ("inside", "verdict"),
    [([18, 18, 17], REPRODUCED), ([2, 2, 3], NOT_REPRODUCED), ([18, 10, 14], INCONCLUSIVE)],
)
def test_entropy_stays_in_band(check, inside, verdict):
    # two steps of warm-up outside the band do not count; 18 steps are left
    def metrics(seed):
        count = inside[seed]
        return {"entropy/clamped": [0.9] * 2 + [0.25] * count + [0.35] * (18 - count)}

    row = check(metrics={"aent": metrics}).loc["entropy_stays_in_band"]
    assert row["verdict"] == verdict
    assert row["estimate"] == pytest.approx(np.mean(inside) / 18)


def obey(entropies, sign=-1.0):
    value, coefficients = 0.02, []
    for step, entropy in enumerate(entropies, start=1):
        coefficients.append(value)
        if step > 2:
            excursion = min(0.0, entropy - 0.2) + max(0.0, entropy - 0.3)
            value = float(np.clip(value + sign * 0.1 * excursion, 0.01, 0.05))
    return {"entropy/clamped": entropies, "entropy/coefficient": coefficients}


def test_coefficient_reacts(check):
    swing = [0.35] * 6 + [0.25] * 4 + [0.1] * 10  # falls to its minimum, rises to its maximum
    row = check(metrics={"aent": obey(swing)}).loc["coefficient_reacts"]
    assert row["verdict"] == REPRODUCED
    # steps 3 to 6 and 11 to 19 are excursions with a successor, in each of three seeds
    assert row["numbers"].startswith("39 of 39 reactions right")
    assert check(metrics={"aent": obey(swing, sign=1.0)}).loc["coefficient_reacts"]["verdict"] == (
        NOT_REPRODUCED
    )
    quiet = check(metrics={"aent": obey([0.25] * 20)}).loc["coefficient_reacts"]
    assert quiet["verdict"] == INCONCLUSIVE
    assert math.isnan(quiet["estimate"])
    escaped = obey(swing)
    escaped["entropy/coefficient"] = [0.06, *escaped["entropy/coefficient"][1:]]
    assert check(metrics={"aent": escaped}).loc["coefficient_reacts"]["verdict"] == NOT_REPRODUCED


def test_reactions_look_at_the_next_step(config):
    rule = config.method("lab", "aent").entropy.coefficient
    history = pd.DataFrame(
        {
            "entropy": [0.1, 0.25, 0.4, 0.4, 0.1],
            "coefficient": [0.02, 0.03, 0.03, 0.04, 0.01],
        },
        index=[3, 4, 5, 6, 7],
    )
    assert reactions(history, rule).to_dict() == {3: True, 5: False, 6: True}


def test_constant_coefficient_leaves_the_controller_claims_open(check, synthetic):
    data = synthetic.config_data()
    data["methods"]["aent"]["entropy"]["coefficient"] = {"kind": "constant", "value": 0.01}
    found = check(config=parse(data))
    for claim in ("entropy_stays_in_band", "coefficient_reacts"):
        assert found.loc[claim, "verdict"] == INCONCLUSIVE
        assert "no adaptive coefficient" in found.loc[claim, "numbers"]


@pytest.mark.parametrize(
    ("slopes", "verdict"),
    [
        ([0.10, 0.11, 0.09], REPRODUCED),
        ([-0.10, -0.11, -0.09], NOT_REPRODUCED),
        ([0.10, -0.10, 0.05], INCONCLUSIVE),
    ],
)
def test_larger_is_better(check, slopes, verdict):
    scores = {f"aent-drop{p:g}": [0.5 + slope * p for slope in slopes] for p in (0, 0.25, 0.5)}
    row = check(scores).loc["larger_is_better"]
    assert row["verdict"] == verdict
    assert row["estimate"] == pytest.approx(np.mean(slopes))


def test_the_proposed_method_may_be_a_point_of_its_sweep(check, synthetic):
    data = synthetic.config_data()
    data["sweeps"]["aent-drop"]["values"] = [0, 0.33, 0.5]
    scores = {"aent-drop0": [0.5] * 3, "aent": [0.533] * 3, "aent-drop0.5": [0.55] * 3}
    row = check(scores, config=parse(data)).loc["larger_is_better"]
    assert row["estimate"] == pytest.approx(0.1)


def test_a_setting_without_the_sweep_is_judged_by_the_other_claims(synthetic):
    data = synthetic.config_data()
    data["settings"]["annex"] = data["settings"]["lab"] | {"title": "Annex"}
    data["claims"] |= {"settings": ["lab", "annex"], "sweep_settings": ["lab"]}
    config = parse(data)
    frames = []
    for setting, gain in {"lab": 0.02, "annex": 0.1}.items():
        methods = METHODS if setting == "lab" else METHODS[:3]
        keys = [(method, seed) for method in methods for seed in range(3)]
        curves = {key: {10: 0.5 + gain * (key[0] == "aent"), 20: 0.1} for key in keys}
        flat = {"entropy/full": 0.25, "entropy/clamped": 0.25, "entropy/coefficient": 0.02}
        metrics = synthetic.metrics_of(dict.fromkeys(keys, flat))
        frames.append([synthetic.scores_of(curves), metrics])
        for frame in frames[-1]:
            frame["setting"] = setting
    scores, metrics = (pd.concat(parts, ignore_index=True) for parts in zip(*frames, strict=True))
    found = check_claims(config, scores, metrics)
    by_setting = {name: list(rows["claim"]) for name, rows in found.groupby("setting", sort=False)}
    assert list(by_setting) == ["Lab_1", "Annex"]
    assert len(by_setting["Lab_1"]) == 8
    assert [claim for claim in by_setting["Lab_1"] if claim not in by_setting["Annex"]] == [
        "larger_is_better",
        "every_value_beats_baseline",
    ]
    best = found[found["claim"] == "proposed_is_best"]
    assert best["estimate"].tolist() == pytest.approx([0.02, 0.1])
    text = markdown(found)
    assert re.findall("^## .*", text, flags=re.MULTILINE) == ["## Lab_1", "## Annex", "## Rules"]
    assert text.count("| AEnt has the best average test score | **reproduced** |") == 2
    assert text.count("- AEnt has the best average test score: ") == 1  # one rule for both


@pytest.mark.parametrize(
    ("quarter", "half", "verdict"),
    [
        (level(0.53, WOBBLE), level(0.55, WOBBLE), REPRODUCED),
        (level(0.47, WOBBLE), level(0.55, WOBBLE), NOT_REPRODUCED),
        (level(0.55, NOISE), level(0.55, WOBBLE), INCONCLUSIVE),
    ],
)
def test_every_value_beats_baseline(check, quarter, half, verdict):
    scores = {"aent-drop0": [0.1] * 3, "aent-drop0.25": quarter, "aent-drop0.5": half}
    row = check(scores).loc["every_value_beats_baseline"]
    assert row["verdict"] == verdict  # the value 0 clamps nothing and does not count


def timed(step):
    return {"time/step_s": step}


FAST, LATE = {10: 0.6, 20: 0.5}, {10: 0.4, 20: 0.6}


@pytest.mark.parametrize(
    ("aent", "seconds", "verdict", "text"),
    [
        ([FAST] * 3, 36.0, REPRODUCED, "ratio 0.500"),
        ([LATE] * 3, 54.0, NOT_REPRODUCED, "ratio 1.500"),
        ([FAST, LATE, LATE], 40.0, INCONCLUSIVE, "3 of 3"),
        ([{10: 0.1, 20: 0.2}] * 3, 9.0, NOT_REPRODUCED, "reached by 0 of 3"),
        ([FAST, FAST, {10: 0.1, 20: 0.2}], 9.0, INCONCLUSIVE, "a lower bound; reached by 2 of 3"),
    ],
)
def test_proposed_is_faster(check, aent, seconds, verdict, text):
    grpo = [{10: 0.4, 20: 0.6}] * 3
    row = check({"grpo": grpo, "aent": aent}, {"aent": timed(seconds)}).loc["proposed_is_faster"]
    assert row["verdict"] == verdict
    assert text in row["numbers"]


def test_missing_runs_are_named(check, config, synthetic):
    scores = synthetic.scores_of({(m, s): {10: 0.5} for m in METHODS for s in range(3)})
    some = synthetic.metrics_of({("grpo", 0): {"entropy/full": 0.2}})
    with pytest.raises(MissingDataError, match="lab/grpo/seed1: no metrics"):
        check_claims(config, scores, some)
    with pytest.raises(MissingDataError, match="lab/aent/seed0: no scores"):
        check_claims(config, scores[scores["method"] != "aent"], some)


def values(plain, clamped, seeds=(0, 1, 2)):
    """Final values of the synthetic problem: {optimal: value}; 0.5 without regularisation."""
    rows = []
    for seed, wobble in zip(seeds, WOBBLE, strict=True):
        for number in plain:
            rows.append((number, "none", math.nan, 0.0, seed, 9, 0.5))
            rows.append((number, "entropy", math.nan, 0.1, seed, 9, plain[number] + wobble))
            change = NOISE[seed] if clamped[number] is None else wobble
            center = 0.9 if clamped[number] is None else clamped[number]
            rows.append((number, "clamped", 0.02, 0.1, seed, 9, center + change))
    names = ["optimal", "regulariser", "keep", "coefficient", "seed", "step", "value"]
    return pd.DataFrame(rows, columns=names)


@pytest.mark.parametrize(
    ("plain", "clamped", "helps", "beats"),
    [
        ({10: 0.8, 5: 0.4}, {10: 0.9, 5: 0.8}, REPRODUCED, REPRODUCED),
        ({10: 0.8, 5: 0.7}, {10: 0.9, 5: 0.8}, NOT_REPRODUCED, REPRODUCED),
        ({10: 0.8, 5: 0.4}, {10: 0.9, 5: 0.4}, NOT_REPRODUCED, NOT_REPRODUCED),
        ({10: 0.8, 5: 0.4}, {10: 0.9, 5: None}, INCONCLUSIVE, INCONCLUSIVE),
        ({5: 0.4}, {5: 0.8}, INCONCLUSIVE, REPRODUCED),
        ({10: 0.8}, {10: 0.9}, INCONCLUSIVE, INCONCLUSIVE),
    ],
)
def test_synthetic_problem(plain, clamped, helps, beats):
    config = Mdp(optimal=list(plain), coefficients=[0.1], keep=[0.02], seeds=[0, 1, 2])
    found = {f.claim: f for f in mdp_findings(config, values(plain, clamped))}
    assert found["clamped_helps_where_entropy_stops"].verdict == helps
    assert found["clamped_beats_entropy_when_sparse"].verdict == beats


def test_verdicts_of_intervals():
    inside = Interval(0.0, -0.01, 0.01, 3)
    assert [above(inside, -0.02), above(inside, 0.02), above(inside, 0.0)] == [
        REPRODUCED,
        NOT_REPRODUCED,
        INCONCLUSIVE,
    ]
    assert [below(inside, 0.02), below(inside, -0.02), below(inside, 0.0)] == [
        REPRODUCED,
        NOT_REPRODUCED,
        INCONCLUSIVE,
    ]
    assert within(inside, 0.01) == REPRODUCED
    one = student([0.3])  # one seed decides nothing
    assert above(one, 0.0) == below(one, 0.0) == within(one, 1.0) == INCONCLUSIVE
    assert every([]) == every([REPRODUCED, INCONCLUSIVE]) == INCONCLUSIVE
    assert every([INCONCLUSIVE, NOT_REPRODUCED, REPRODUCED]) == NOT_REPRODUCED


def test_sheet_is_written_as_numbers_and_as_text(check, tmp_path):
    claims = check().reset_index()
    write_claims(claims, tmp_path / "claims")
    back = pd.read_csv(tmp_path / "claims.csv")
    assert len(back) == 8
    assert back["estimate"].dtype == "float64"
    text = (tmp_path / "claims.md").read_text()
    assert text == markdown(claims)
    assert "\n## Lab_1\n" in text
    assert "| The policy entropy collapses under GRPO | **not reproduced** |" in text
    assert "- AEnt has the best average test score: differences" in text
