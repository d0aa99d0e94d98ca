"""Entropy over token spaces, and the rules that set its coefficient."""

from aent.entropy.coefficients import CoefficientController, make_coefficient
from aent.entropy.statistics import TokenStatistics, token_statistics

__all__ = ["CoefficientController", "TokenStatistics", "make_coefficient", "token_statistics"]
