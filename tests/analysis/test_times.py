import math

import pytest

from aent.analysis.scores import MissingDataError
from aent.analysis.times import device, devices, run_times


def test_hours_to_a_score_computed_by_hand(config, synthetic):
    scores = synthetic.scores_of(
        {
            ("grpo", 0): {10: 0.5, 20: 0.6},
            ("aent", 0): {10: 0.6, 20: 0.7},  # reaches 0.6 at its first checkpoint
            ("entreg", 0): {10: 0.55, 20: 0.4},  # never does
        }
    )
    metrics = synthetic.metrics_of({(m, 0): {} for m in ("grpo", "aent", "entreg")})
    found = run_times(
        config,
        "lab",
        ["grpo", "aent", "entreg"],
        [0],
        baseline="grpo",
        scores=scores,
        metrics=metrics,
    ).set_index("method")
    # 36 s a step on 2 threads: 0.02 hours a step; 18 s an update: 0.01 hours
    assert found["update"].tolist() == pytest.approx([0.01] * 3)
    assert found["to_baseline"].tolist() == pytest.approx([0.4, 0.2, math.inf])
    assert found["to_own"].tolist() == pytest.approx([0.4, 0.4, 0.2])
    assert found["total"].tolist() == pytest.approx([0.4] * 3)


def test_missing_metrics_are_named(config, synthetic):
    scores = synthetic.scores_of({("grpo", 0): {10: 0.5}})
    metrics = synthetic.metrics_of({("aent", 0): {}})
    with pytest.raises(MissingDataError, match="lab/grpo/seed0: no metrics"):
        run_times(config, "lab", ["grpo"], [0], baseline="grpo", scores=scores, metrics=metrics)


def test_devices_are_threads_without_a_gpu(config, synthetic):
    run = synthetic.metrics_of({("grpo", 0): {}}, steps=3)
    assert device(config, "lab") == "CPU thread"
    assert devices(config, "lab", run).tolist() == [2, 2, 2]


def test_a_run_that_went_on_with_other_processes_counts_those_it_had(config, synthetic):
    """36 s a step; 1 process with both of 2 threads, after 10 of 20 steps 4 with one each."""
    scores = synthetic.scores_of({("grpo", 0): {10: 0.5, 20: 0.6}})
    given = {"time/processes": [1.0] * 10 + [4.0] * 10}
    metrics = synthetic.metrics_of({("grpo", 0): given})
    options = {"baseline": "grpo", "scores": scores, "metrics": metrics}
    [found] = run_times(config, "lab", ["grpo"], [0], **options).to_dict("records")
    assert found["total"] == pytest.approx(10 * 0.02 + 10 * 0.04)
    assert found["update"] == pytest.approx((0.01 + 0.02) / 2)
    assert found["devices"] == 3


def test_two_processes_that_share_two_threads_are_two_devices(config, synthetic):
    run = synthetic.metrics_of({("grpo", 0): {"time/processes": [1.0, 2.0, 3.0]}}, steps=3)
    assert devices(config, "lab", run).tolist() == [2, 2, 3]
