"""What every configuration model shares: strictness, names, and how a key is spelled."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
)
from pydantic_core import core_schema

# Names become folders, rule parameters and shell words: nothing else may pass.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


class Strict(BaseModel):
    """Base of all configuration models: unknown keys are errors, values cannot change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class _KindShorthand:
    """Reads `advantage: grpo` as `advantage: {kind: grpo}`, and says so in the JSON schema."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(_from_kind, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        full = handler(schema)
        kinds = [handler.resolve_ref_schema(part) for part in full.get("oneOf", [full])]
        # Only a kind that needs no further key can stand for itself.
        names = [k["properties"]["kind"]["const"] for k in kinds if {"kind"} >= _required(k)]
        return {"anyOf": [{"enum": names}, full]} if names else full


def _required(schema: dict[str, Any]) -> set[str]:
    return set(schema.get("required", ()))


def _from_kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


KindShorthand = _KindShorthand()
