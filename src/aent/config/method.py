"""A method is data: an advantage estimator, a surrogate, an entropy term, perhaps a critic."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aent.config.base import KindShorthand, Strict, Text


class GrpoAdvantage(Strict):
    """Rewards centred on their group's mean and divided by the group's standard deviation."""

    kind: Literal["grpo"]
    normalise: bool = True
    """Divide by the group's standard deviation."""
    epsilon: float = Field(default=1e-6, gt=0)
    """Added to the standard deviation."""


class RlooAdvantage(Strict):
    """Reward minus the mean of the other samples of its group (leave-one-out)."""

    kind: Literal["rloo"]


class GaeAdvantage(Strict):
    """Generalised advantage estimation over tokens with a learned critic."""

    kind: Literal["gae"]
    discount: float = Field(default=1.0, gt=0, le=1)
    """Discount a token (gamma)."""
    trace: float = Field(default=1.0, ge=0, le=1)
    """Trace decay (lambda of GAE)."""
    whiten: bool = True
    """Normalise the advantages over all response tokens of the step."""


Advantage = Annotated[
    GrpoAdvantage | RlooAdvantage | GaeAdvantage, Field(discriminator="kind"), KindShorthand
]


class PpoClip(Strict):
    """PPO's clipped surrogate with the rollout policy as the old policy."""

    kind: Literal["ppo_clip"]
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """The ratio counts down to 1 - clip_low."""
    clip_high: float = Field(default=0.2, gt=0)
    """The ratio counts up to 1 + clip_high."""
    dual_clip: float | None = Field(default=None, gt=1)
    """With a negative advantage, the loss is at most dual_clip times its size; off when absent."""


Surrogate = Annotated[PpoClip, KindShorthand]


class FullSpace(Strict):
    """The whole vocabulary."""

    kind: Literal["full"] = "full"


class RankFraction(Strict):
    """The paper's space: the int(drop * V) least likely tokens are dropped."""

    kind: Literal["rank_fraction"] = "rank_fraction"
    drop: float = Field(ge=0, lt=1)
    """Clamping percentage p, as a fraction of the vocabulary."""


class TopK(Strict):
    """The k most likely tokens."""

    kind: Literal["top_k"] = "top_k"
    k: int = Field(ge=1)
    """Tokens kept; the whole vocabulary where it is smaller."""


class Nucleus(Strict):
    """The smallest set of most likely tokens whose mass reaches `mass`."""

    kind: Literal["nucleus"] = "nucleus"
    mass: float = Field(gt=0, le=1)
    """Probability mass to reach."""


class MinP(Strict):
    """Tokens with a probability of at least `epsilon` times the most likely one's."""

    kind: Literal["min_p"] = "min_p"
    epsilon: float = Field(gt=0, le=1)
    """Threshold relative to the maximum."""


Space = Annotated[
    FullSpace | RankFraction | TopK | Nucleus | MinP, Field(discriminator="kind"), KindShorthand
]


class ConstantCoefficient(Strict):
    """A coefficient that never moves."""

    kind: Literal["constant"] = "constant"
    value: float = Field(ge=0)
    """The coefficient lambda."""

    @property
    def initial(self) -> float:
        """Lambda in the first step, as in all others."""
        return self.value


class AdaptiveCoefficient(Strict):
    """The paper's rule: move lambda against the entropy's excursion from the band."""

    kind: Literal["adaptive"] = "adaptive"
    initial: float = Field(ge=0)
    """lambda_0."""
    low: float = Field(ge=0)
    """H_low: below it the coefficient rises. In nats."""
    high: float = Field(ge=0)
    """H_high: above it the coefficient falls. In nats."""
    rate: float = Field(gt=0)
    """beta: change of lambda for one nat of excursion."""
    min: float = Field(ge=0)
    """lambda_low."""
    max: float = Field(ge=0)
    """lambda_high."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps at the start in which lambda stays lambda_0."""
    pull: float = Field(default=0.0, ge=0)
    """Optional pull back to lambda_0, times `rate`; off in the paper."""

    @model_validator(mode="after")
    def _boxes(self) -> AdaptiveCoefficient:
        if self.low > self.high:
            raise ValueError(f"low {self.low} exceeds high {self.high}")
        if self.min > self.max:
            raise ValueError(f"min {self.min} exceeds max {self.max}")
        if not self.min <= self.initial <= self.max:
            raise ValueError(f"initial {self.initial} is outside [min {self.min}, max {self.max}]")
        return self


Coefficient = Annotated[ConstantCoefficient | AdaptiveCoefficient, Field(discriminator="kind")]


class EntropyTerm(Strict):
    """lambda times the mean entropy over a token space, added to the objective."""

    space: Space = FullSpace()
    """Token space over which the policy is renormalised."""
    coefficient: Coefficient
    """How lambda is set."""

    @property
    def full(self) -> bool:
        """Whether the token space is the whole vocabulary."""
        return isinstance(self.space, FullSpace)

    @property
    def metric(self) -> str:
        """Recorded entropy of the token space: what is added, and what the rule looks at."""
        return "entropy/full" if self.full else "entropy/clamped"


class Critic(Strict):
    """A value network: the base model's transformer with a scalar head."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """AdamW learning rate of the critic."""
    value_clip: float | None = Field(default=0.2, gt=0)
    """Clip of the value's change from its value at collection; off when null."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps at the start in which only the critic learns."""


class Method(Strict):
    """One training method."""

    title: Text | None = None
    """Name in tables and figures; the method's own name when absent."""
    advantage: Advantage
    """Advantage estimator: grpo, rloo or gae."""
    surrogate: Surrogate
    """Policy objective: ppo_clip."""
    entropy: EntropyTerm | None = None
    """Entropy bonus; none when absent."""
    critic: Critic | None = None
    """Value network; needed by gae and by nothing else."""

    @model_validator(mode="after")
    def _critic(self) -> Method:
        if (self.advantage.kind == "gae") != (self.critic is not None):
            raise ValueError(
                f"advantage {self.advantage.kind} "
                f"{'needs' if self.critic is None else 'does not use'} a critic"
            )
        return self
