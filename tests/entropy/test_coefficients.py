"""Coefficient rules against values computed by hand."""

from __future__ import annotations

import pytest

from aent.config.method import AdaptiveCoefficient, ConstantCoefficient
from aent.entropy import make_coefficient

BAND = {"initial": 0.002, "low": 0.15, "high": 0.24, "rate": 0.002, "min": 0.0006, "max": 0.009}


def test_constant_never_moves():
    controller = make_coefficient(ConstantCoefficient(value=0.01))
    assert [controller.update(step, entropy) for step, entropy in enumerate((0.0, 9.0), 1)] == [
        0.01,
        0.01,
    ]
    assert controller.value == 0.01


@pytest.mark.parametrize(
    ("entropy", "expected"),
    [
        (0.05, 0.002 + 0.002 * 0.10),  # below the band: lambda rises
        (0.15, 0.002),  # on the edge: left alone
        (0.20, 0.002),
        (0.24, 0.002),
        (0.44, 0.002 - 0.002 * 0.20),  # above the band: lambda falls
    ],
)
def test_adaptive_moves_against_the_excursion(entropy, expected):
    controller = make_coefficient(AdaptiveCoefficient(**BAND))
    assert controller.update(1, entropy) == pytest.approx(expected, rel=1e-12)
    assert controller.value == pytest.approx(expected, rel=1e-12)


def test_adaptive_is_clipped_to_its_box():
    controller = make_coefficient(AdaptiveCoefficient(**{**BAND, "rate": 1.0}))
    assert controller.update(1, 0.0) == 0.009  # 0.002 + 0.15, cut
    assert controller.update(2, 5.0) == 0.0006  # 0.009 - 4.76, cut


def test_warm_up_steps_leave_lambda_alone():
    controller = make_coefficient(AdaptiveCoefficient(**BAND, warmup_steps=2))
    assert controller.update(1, 0.05) == 0.002
    assert controller.update(2, 0.05) == 0.002
    assert controller.update(3, 0.05) == pytest.approx(0.0022, rel=1e-12)


def test_pull_leads_back_to_the_initial_value():
    controller = make_coefficient(AdaptiveCoefficient(**{**BAND, "rate": 0.1}, pull=0.5))
    # 0.002 + 0.1 * 0.05 = 0.007; lambda is at lambda_0, so the pull is zero.
    assert controller.update(1, 0.10) == pytest.approx(0.007, rel=1e-12)
    # Inside the band only the pull acts: 0.007 - 0.1 * 0.5 * 0.005.
    assert controller.update(2, 0.20) == pytest.approx(0.00675, rel=1e-12)


def test_state_survives_a_restart():
    first = make_coefficient(AdaptiveCoefficient(**BAND))
    first.update(1, 0.0)
    second = make_coefficient(AdaptiveCoefficient(**BAND))
    second.load_state_dict(first.state_dict())
    assert second.value == first.value == pytest.approx(0.0023, rel=1e-12)
    assert second.update(2, 0.3) == first.update(2, 0.3)


@pytest.mark.parametrize(
    "config", [ConstantCoefficient(value=0.01), AdaptiveCoefficient(**BAND)], ids=["c", "a"]
)
def test_a_state_is_one_number(config):
    controller = make_coefficient(config)
    assert controller.state_dict() == {"value": config.initial}
    controller.load_state_dict({"value": 0.004})
    assert controller.update(1, 0.20) == 0.004  # inside the band


def test_a_rule_that_nobody_registered_is_refused():
    stranger = AdaptiveCoefficient(**BAND).model_copy(update={"kind": "sac_dual"})
    with pytest.raises(KeyError, match="sac_dual"):
        make_coefficient(stranger)


@pytest.mark.parametrize("entropy", [float("nan"), float("inf")])
def test_an_entropy_that_is_not_finite_is_refused(entropy):
    controller = make_coefficient(AdaptiveCoefficient(**BAND))
    with pytest.raises(ValueError, match=r"step 7 is (nan|inf)"):
        controller.update(7, entropy)
    assert controller.value == 0.002
