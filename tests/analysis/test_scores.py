import json
import math

import pandas as pd
import pytest

from aent.analysis.scores import (
    COLUMNS,
    MissingDataError,
    checkpoint_averages,
    collect_scores,
    read_metrics,
    select_checkpoints,
    title,
)
from aent.config import parse


def score_file(path, seed, step, benchmarks):
    entry = {
        "split": "test",
        "average_stderr": 0.01,
        "pass": 0.7,
        "pass_stderr": 0.02,
        "problems": 10,
        "samples": 4,
        "unparsed": 1,
        "truncated_fraction": 0.0,
        "length_mean": 12.0,
    }
    record = {
        "setting": "lab",
        "method": "grpo" if seed is not None else "base",
        "seed": seed,
        "step": step,
        "model": "m",
        "seconds": 1.0,
        "benchmarks": {name: {**entry, "average": value} for name, value in benchmarks.items()},
    }
    path.write_text(json.dumps(record))
    return path


def test_collect_scores_reads_the_files_in_any_order(tmp_path):
    base = score_file(tmp_path / "base.json", None, 0, {"easy": 0.3})
    run = score_file(tmp_path / "run.json", 0, 10, {"hard": 0.2, "easy": 0.4})
    found = collect_scores([run, base])
    assert list(found.columns) == list(COLUMNS)
    assert found["method"].tolist() == ["base", "grpo", "grpo"]
    assert found["benchmark"].tolist() == ["easy", "easy", "hard"]
    assert found["average"].tolist() == [0.3, 0.4, 0.2]
    assert found["seed"].isna().tolist() == [True, False, False]
    assert found["seed"].dtype == "Int64"
    pd.testing.assert_frame_equal(found, collect_scores([base, run]))


def test_collect_scores_names_file_and_key(tmp_path):
    path = tmp_path / "bad.json"
    path.write_text('{"setting": "lab", "method": "grpo", "seed": 0, "step": 1}')
    with pytest.raises(MissingDataError, match=r"bad\.json: no key 'benchmarks'"):
        collect_scores([path])


def test_checkpoint_averages_are_means_over_benchmarks(config, synthetic):
    rows = synthetic.score_rows("grpo", 0, {10: (0.4, 0.2, 0.35)})
    rows += synthetic.score_rows("base", None, {0: (0.2, 0.1, 0.15)})
    found = checkpoint_averages(config, "lab", synthetic.score_frame(rows))
    by_method = found.set_index("method")
    assert by_method["average"].to_dict() == pytest.approx({"grpo": 0.3, "base": 0.15})
    assert by_method["validation"].to_dict() == pytest.approx({"grpo": 0.35, "base": 0.15})
    assert found["seed"].isna().sum() == 1


def test_missing_benchmark_is_named(config, synthetic):
    rows = synthetic.score_rows("grpo", 0, {10: (0.4, 0.2, 0.3)})
    frame = synthetic.score_frame(rows)
    with pytest.raises(MissingDataError, match=r"lab/grpo seed 0 step 10.*easy.*hard"):
        checkpoint_averages(config, "lab", frame[frame["benchmark"] != "hard"])
    with pytest.raises(MissingDataError, match="valid"):
        checkpoint_averages(config, "lab", frame[frame["benchmark"] != "valid"])


def test_selections_differ_and_ties_take_the_earliest(config, synthetic):
    curve = {
        10: (0.4, 0.4, 0.9),  # chosen by validation
        20: (0.6, 0.6, 0.5),  # best on test
        30: (0.6, 0.6, 0.5),  # a tie: not the earliest
        40: (0.5, 0.5, 0.9),  # last; validation ties
    }
    frame = synthetic.score_frame(synthetic.score_rows("grpo", 0, curve))
    found = select_checkpoints(config, "lab", ["grpo"], [0], frame)
    chosen = found.set_index("selection")
    assert chosen["step"].to_dict() == {"best": 20, "validation": 10, "last": 40}
    assert chosen["average"].to_dict() == {"best": 0.6, "validation": 0.4, "last": 0.5}
    with pytest.raises(MissingDataError, match="lab/grpo/seed1: no scores"):
        select_checkpoints(config, "lab", ["grpo"], [0, 1], frame)


def test_without_validation_sets_there_is_no_such_selection(synthetic):
    data = synthetic.config_data()
    data["settings"]["lab"]["evaluation"]["validation"] = []
    frame = synthetic.score_frame(synthetic.score_rows("grpo", 0, {10: (0.4, 0.2, 0.3)}))
    config = parse(data)
    found = select_checkpoints(config, "lab", ["grpo"], [0], frame)
    assert found["selection"].tolist() == ["best", "last"]
    assert math.isnan(checkpoint_averages(config, "lab", frame)["validation"].iloc[0])


def test_read_metrics_puts_runs_under_one_another(tmp_path, synthetic):
    config = parse({**synthetic.config_data(), "results": str(tmp_path)})
    runs = [config.run("lab", "grpo", 0), config.run("lab", "aent", 1)]
    for run, metric in zip(runs, ["a", "b"], strict=True):
        folder = tmp_path / run.name
        folder.mkdir(parents=True)
        pd.DataFrame({"step": [1, 2], metric: [0.5, 0.6]}).to_parquet(folder / "metrics.parquet")
    found = read_metrics(config, runs)
    assert list(found.columns) == ["setting", "method", "seed", "step", "a", "b"]
    assert found["method"].tolist() == ["grpo", "grpo", "aent", "aent"]
    assert found["b"].isna().tolist() == [True, True, False, False]

    path = tmp_path / runs[0].name / "metrics.parquet"
    pd.DataFrame({"step": [1, 3]}).to_parquet(path)
    with pytest.raises(MissingDataError, match="steps are not 1 to 2"):
        read_metrics(config, runs)


def test_titles(config):
    assert title(config, "lab", "base") == "Base model"
    assert title(config, "lab", "aent") == "AEnt"
    assert title(config, "lab", "aent-drop0.25") == "AEnt, drop 0.25"
