"""Rules for the entropy coefficient lambda: one controller a training run.

A new rule is one function here, one line in `RULES` and one model in `aent.config.method`, whose
`initial` is lambda in the first step. Lambda is all that a rule remembers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from aent.config.method import AdaptiveCoefficient, Coefficient, ConstantCoefficient


class CoefficientController:
    """Lambda, and the rule that moves it."""

    def __init__(self, rule: Callable[[float, int, float], float], value: float) -> None:
        """Start.

        Args:
            rule: from lambda, a step and its entropy to the next lambda.
            value: lambda in the first step.
        """
        self.rule = rule
        self.value = value
        """Coefficient lambda that the next step uses."""

    def update(self, step: int, entropy: float) -> float:
        """Move lambda by a step's entropy and return it.

        Args:
            step: Training step, counted from 1.
            entropy: Mean entropy over the step's response tokens and the method's token space, in
                nats.

        Raises:
            ValueError: The entropy is not finite, and the rule uses it.
        """
        self.value = self.rule(self.value, step, entropy)
        return self.value

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed run needs."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self.value = float(state["value"])


def constant(config: ConstantCoefficient, value: float, step: int, entropy: float) -> float:
    """Leave lambda as it is, whatever the entropy (EntReg, and AEnt's ablation)."""
    return value


def adaptive(config: AdaptiveCoefficient, value: float, step: int, entropy: float) -> float:
    """Move lambda against excursions from a band: the adaptive rule of arXiv 2509.03493.

    After the warm-up (`step > warmup_steps`), with measured entropy H and the band [low, high]::

        lambda <- clip(lambda - rate * (min(0, H - low) + max(0, H - high)
                                        + pull * (lambda - lambda_0)), min, max)

    The pull towards lambda_0 is off in the paper.

    Raises:
        ValueError: The entropy is not finite: lambda would be lost for the rest of the run.
    """
    if not math.isfinite(entropy):
        raise ValueError(f"entropy measured in step {step} is {entropy}, not a finite number")
    if step <= config.warmup_steps:
        return value
    excursion = min(0.0, entropy - config.low) + max(0.0, entropy - config.high)
    excursion += config.pull * (value - config.initial)
    return min(max(value - config.rate * excursion, config.min), config.max)


RULES: dict[str, Callable[[Any, float, int, float], float]] = {
    "constant": constant,
    "adaptive": adaptive,
}


def make_coefficient(config: Coefficient) -> CoefficientController:
    """Return the controller that a coefficient's configuration describes."""
    return CoefficientController(partial(RULES[config.kind], config), config.initial)
