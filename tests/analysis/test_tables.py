import math

import pandas as pd
import pytest

from aent.analysis.scores import MissingDataError
from aent.analysis.tables import latex, markdown, scores_table, time_table, write_table

METHODS = ["grpo", "entreg", "aent"]


@pytest.fixture
def scores(synthetic):
    rows = synthetic.score_rows("base", None, {0: (0.3, 0.1, 0.2)})
    for method in METHODS:
        for seed in range(3):
            gain = {"grpo": 0.0, "entreg": 0.01, "aent": 0.05}[method] + 0.01 * seed
            curve = {10: (0.6 + gain, 0.4 + gain, 0.9), 20: (0.5, 0.3, 0.8)}
            rows += synthetic.score_rows(method, seed, curve)
    return synthetic.score_frame(rows)


@pytest.fixture
def metrics(synthetic):
    return synthetic.metrics_of({(m, s): {} for m in METHODS for s in range(3)})


def cell(table, **keys):
    rows = table.data
    for key, value in keys.items():
        rows = rows[rows[key] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def test_scores_table_numbers_computed_by_hand(config, scores):
    table = scores_table(config, config.tables["table1"], scores)
    best = cell(table, method="grpo", checkpoint="best", benchmark="easy")
    # 0.60, 0.61, 0.62: SD 0.01, half = 4.302653 * 0.01 / sqrt(3)
    assert best["mean"] == pytest.approx(0.61)
    assert best["high"] - best["mean"] == pytest.approx(0.0248414, abs=1e-6)
    assert (best["seeds"], best["step"]) == (3, 10)
    assert math.isnan(best["published"])
    average = cell(table, method="aent", checkpoint="best", benchmark="average")
    assert average["mean"] == pytest.approx((0.66 + 0.46) / 2)
    last = cell(table, method="aent", checkpoint="last", benchmark="hard")
    assert (last["mean"], last["low"], last["step"]) == pytest.approx((0.3, 0.3, 20))
    validation = cell(table, method="aent", checkpoint="validation", benchmark="easy")
    assert validation["step"] == 10
    base = cell(table, method="base", benchmark="average")
    assert (base["mean"], base["seeds"]) == pytest.approx((0.2, 1))
    assert math.isnan(base["low"])
    assert cell(table, method="aent", checkpoint="best", benchmark="easy")["published"] == 0.552


def test_scores_table_reads_well(config, scores):
    table = scores_table(config, config.tables["table1"], scores)
    text = markdown(table)
    assert "## Lab_1" in text
    assert "| Method | Checkpoint | Easy & small | hard | Average |" in text
    assert "| Base model | - | 0.300 | 0.100 | 0.200 |" in text
    assert "| GRPO | best checkpoint | 0.610 ± 0.025 | 0.410 ± 0.025 | 0.510 ± 0.025 |" in text
    assert "| AEnt | published | 0.552 | n/a | n/a |" in text
    assert "not evaluated here: AEnt MATH-Hard 0.500" in text
    tex = latex(table)
    assert r"Easy \& small" in tex
    assert r"0.610 $\pm$ 0.025" in tex
    assert r"Lab\_1" in tex
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == 1
    assert "bf" not in tex.replace("textbf", "bf")  # nothing is set in bold


def test_one_seed_has_no_interval(config, scores):
    one = config.tables["table1"].model_copy(update={"seeds": [1]})
    table = scores_table(config, one, scores)
    best = cell(table, method="grpo", checkpoint="best", benchmark="easy")
    assert best["mean"] == pytest.approx(0.61)
    assert math.isnan(best["low"])
    assert "| GRPO | best checkpoint | 0.610 |" in markdown(table)


def test_missing_runs_and_base_are_named(config, scores):
    table = config.tables["table1"]
    with pytest.raises(MissingDataError, match="lab/base: no scores"):
        scores_table(config, table, scores[scores["method"] != "base"])
    with pytest.raises(MissingDataError, match="lab/aent/seed0: no scores"):
        scores_table(config, table, scores[scores["method"] != "aent"])


def test_time_table_computed_by_hand(config, scores, metrics):
    table = time_table(config, config.tables["table2"], scores, metrics)
    update = cell(table, method="grpo", time="update")
    assert update["mean_hours"] == pytest.approx(0.01)  # 18 s on 2 threads
    assert update["published_hours"] == 0.234
    assert cell(table, method="aent", time="to_own")["mean_hours"] == pytest.approx(0.2)
    text = markdown(table)
    assert "To GRPO's best score" in text
    assert "| GRPO | CPU thread hours | 0.010 ± 0.000 | 0.200 ± 0.000 | 0.200 ± 0.000 |" in text
    assert "| GRPO, published | GPU hours | 0.234 | n/a | n/a |" in text


def test_time_table_is_honest_about_scores_that_are_not_reached(config, synthetic, metrics):
    curves = {("grpo", s): {10: 0.6, 20: 0.5} for s in range(3)}
    curves |= {("entreg", s): {10: 0.5, 20: 0.5} for s in range(3)}
    curves |= {("aent", s): {10: 0.5, 20: 0.7 if s else 0.5} for s in range(3)}
    scores = synthetic.scores_of(curves)
    table = time_table(config, config.tables["table2"], scores, metrics)
    never = cell(table, method="entreg", time="to_baseline")
    assert math.isnan(never["mean_hours"])
    assert never["reached"] == 0
    some = cell(table, method="aent", time="to_baseline")
    assert some["mean_hours"] == pytest.approx(0.4)
    assert some["reached"] == pytest.approx(2 / 3)
    text = markdown(table)
    assert "not reached" in text
    assert "(reached by 2 of 3 seeds)" in text


def test_short_times_are_given_in_seconds(config, scores, synthetic):
    runs = {(m, s): {} for m in METHODS for s in range(3)}
    metrics = synthetic.metrics_of(runs, **{"time/step_s": 1.0, "time/update_s": 0.5})
    table = time_table(config, config.tables["table2"], scores, metrics)
    text = markdown(table)
    assert "| AEnt | CPU thread seconds | 1.00 ± 0.00 | 20.0 ± 0.0 | 20.0 ± 0.0 |" in text
    assert "a run occupied 2 CPU thread(s)" in text


def test_write_table_writes_three_files(config, scores, tmp_path):
    table = scores_table(config, config.tables["table1"], scores)
    write_table(table, tmp_path / "deep" / "table1")
    back = pd.read_csv(tmp_path / "deep" / "table1.csv")
    assert len(back) == len(table.data) == (1 + 3 * 3) * 3
    assert back["mean"].dtype == back["published"].dtype == "float64"
    assert (tmp_path / "deep" / "table1.md").read_text() == markdown(table)
    assert (tmp_path / "deep" / "table1.tex").read_text() == latex(table)
