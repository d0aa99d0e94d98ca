"""Small rules that several stages take from the configuration."""

import pytest

from aent.config.method import EntropyTerm
from aent.config.setting import Evaluation


@pytest.mark.parametrize(
    ("space", "metric"),
    [("full", "entropy/full"), ({"kind": "rank_fraction", "drop": 0.0}, "entropy/clamped")],
)
def test_the_entropy_that_a_rule_looks_at(space, metric):
    constant = {"kind": "constant", "value": 0.01}
    assert EntropyTerm.model_validate({"space": space, "coefficient": constant}).metric == metric


def test_a_checkpoint_is_scored_on_benchmarks_and_validation():
    evaluation = Evaluation(benchmarks=["b", "a"], validation=["v"])
    assert evaluation.problem_sets == ["b", "a", "v"]
