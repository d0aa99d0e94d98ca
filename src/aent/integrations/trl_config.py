"""TRL's GRPO arguments with a token space and a coefficient rule."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from trl import GRPOConfig

from aent.config import ConfigError, describe
from aent.config.base import Strict
from aent.config.method import AdaptiveCoefficient, Coefficient, RankFraction, Space

# Setting (a) of arXiv 2509.03493.
PAPER_SPACE = RankFraction(drop=0.33)
PAPER_RULE = AdaptiveCoefficient(
    initial=0.002, low=0.15, high=0.24, rate=0.002, min=0.0006, max=0.009, warmup_steps=30
)


class EntropyFields(Strict):
    """The fields that `AEntGRPOConfig` adds, checked."""

    token_space: Space
    coefficient_rule: Coefficient | None


@dataclass
class AEntGRPOConfig(GRPOConfig):
    """TRL's `GRPOConfig` with the entropy term of AEnt.

    Both fields take a model of `aent.config.method`, a dictionary that is valid for one, or that
    dictionary as JSON text; they are kept as dictionaries, so that the arguments can be saved. The
    defaults are the paper's for Qwen2.5-Math-1.5B: the band suits models of that entropy.

    Raises:
        ConfigError: A field is wrong; the message names key, value and what is allowed.
    """

    token_space: dict[str, Any] | str | None = field(
        default_factory=PAPER_SPACE.model_dump,
        metadata={
            "help": "Token space of the entropy: full, or JSON such as "
            '\'{"kind": "rank_fraction", "drop": 0.33}\'; kinds: full, rank_fraction, top_k, '
            "nucleus, min_p."
        },
    )
    coefficient_rule: dict[str, Any] | str | None = field(
        default_factory=PAPER_RULE.model_dump,
        metadata={
            "help": "Rule of the entropy coefficient, as JSON; kinds: constant, adaptive. null "
            "turns the entropy term off."
        },
    )

    def __post_init__(self) -> None:
        term = self.entropy_term()
        self.token_space = term.token_space.model_dump()
        rule = term.coefficient_rule
        self.coefficient_rule = rule.model_dump() if rule else None
        if rule and (self.entropy_coef != 0 or self.use_adaptive_entropy):
            raise ConfigError(
                "entropy_coef and use_adaptive_entropy are TRL's own entropy bonus: use either "
                "them or coefficient_rule (given: both)"
            )
        if self.use_liger_kernel:
            raise ConfigError("use_liger_kernel: not supported here; must be False (given: True)")
        super().__post_init__()

    def entropy_term(self) -> EntropyFields:
        """Check the two fields and return them as models."""
        given = {name: _decoded(name, getattr(self, name)) for name in EntropyFields.model_fields}
        try:
            return EntropyFields.model_validate(given)
        except ValidationError as error:
            raise ConfigError(describe(error, type(self).__name__)) from None


def _decoded(name: str, value: Any) -> Any:
    """Decode a field that is JSON text; leave others, and a kind's name, as they are."""
    if not isinstance(value, str) or not (value.lstrip().startswith("{") or value == "null"):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}: not valid JSON, {error} (given: {value!r})") from None
