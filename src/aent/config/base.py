"""What every configuration model shares: strictness, names, and how a key is spelled."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints

# Names become folders, rule parameters and shell words: nothing else may pass.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


class Strict(BaseModel):
    """Base of all configuration models: unknown keys are errors, values cannot change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _from_kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


# `advantage: grpo` is short for `advantage: {kind: grpo}`.
KindShorthand = BeforeValidator(_from_kind)
