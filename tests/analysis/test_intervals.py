import math

import pytest

from aent.analysis.intervals import student


def test_student_interval_computed_by_hand():
    # mean 0.5, SD 0.1, t(0.975, 2) = 4.302653: half = 4.302653 * 0.1 / sqrt(3) = 0.248414
    found = student([0.4, 0.5, 0.6])
    assert found.mean == pytest.approx(0.5)
    assert found.half == pytest.approx(0.248414, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((0.251586, 0.748414), abs=1e-6)
    assert found.number == 3
    assert found.show() == "0.500 ± 0.248"
    assert found.range(2) == "0.50 [0.25, 0.75]"


def test_one_value_has_no_interval():
    found = student([0.4])
    assert found.mean == 0.4
    assert math.isnan(found.low)
    assert found.show() == "0.400"
    assert found.range() == "0.400 [n/a]"


def test_no_value_is_not_available():
    assert student([]).show() == student([]).range() == "n/a"


def test_infinite_values_are_refused():
    with pytest.raises(ValueError, match="finite"):
        student([1.0, math.inf])
