"""Rules for the entropy coefficient lambda: one controller a training run."""

from __future__ import annotations

import math
from typing import Protocol

from aent.config.method import AdaptiveCoefficient, Coefficient, ConstantCoefficient


class CoefficientController(Protocol):
    """What a training loop needs of a coefficient rule."""

    value: float
    """Coefficient lambda that the next step uses."""

    def update(self, step: int, entropy: float) -> float:
        """Take in the entropy (nats) measured in `step` (counted from 1); return the new lambda."""
        ...

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed run needs."""
        ...

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        ...


class ConstantController:
    """A coefficient that never moves (EntReg, and AEnt's ablation)."""

    def __init__(self, config: ConstantCoefficient) -> None:
        self.value = config.value

    def update(self, step: int, entropy: float) -> float:
        """Return the coefficient, whatever the entropy."""
        return self.value

    def state_dict(self) -> dict[str, float]:
        """Return the coefficient."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore the coefficient."""
        self.value = float(state["value"])


class AdaptiveController:
    """The adaptive rule of arXiv 2509.03493: lambda moves against excursions from a band.

    After the warm-up, with measured entropy H and the band [low, high]::

        lambda <- clip(lambda - rate * (min(0, H - low) + max(0, H - high)
                                        + pull * (lambda - lambda_0)), min, max)

    The pull towards lambda_0 is off in the paper.
    """

    def __init__(self, config: AdaptiveCoefficient) -> None:
        self.config = config
        self.value = config.initial

    def update(self, step: int, entropy: float) -> float:
        """Move lambda by the entropy measured in `step` and return it.

        Args:
            step: Training step, counted from 1; lambda moves only where `step > warmup_steps`.
            entropy: Mean clamped entropy over the step's response tokens, in nats.

        Raises:
            ValueError: The entropy is not finite: lambda would be lost for the rest of the run.
        """
        config = self.config
        if not math.isfinite(entropy):
            raise ValueError(f"entropy measured in step {step} is {entropy}, not a finite number")
        if step > config.warmup_steps:
            excursion = min(0.0, entropy - config.low) + max(0.0, entropy - config.high)
            excursion += config.pull * (self.value - config.initial)
            self.value = min(max(self.value - config.rate * excursion, config.min), config.max)
        return self.value

    def state_dict(self) -> dict[str, float]:
        """Return the current lambda."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore lambda."""
        self.value = float(state["value"])


def make_coefficient(config: Coefficient) -> CoefficientController:
    """Return the controller that a coefficient's configuration describes."""
    if isinstance(config, ConstantCoefficient):
        return ConstantController(config)
    return AdaptiveController(config)
