"""What every configuration model shares: strictness, names, and how a key is spelled."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
)
from pydantic_core import core_schema

# Names become folders, rule parameters and shell words: nothing else may pass.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]

_COMPONENT = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,254}")
T = TypeVar("T")


def _plain_path(path: Path) -> Path:
    parts = path.parts[1:] if path.is_absolute() else path.parts
    if not all(_COMPONENT.fullmatch(part) for part in parts) or len(str(path)) > 1000:
        raise ValueError("each part of a path may hold A-Z a-z 0-9 . _ - and not begin with -")
    return path


def _plain_path_text(text: str) -> str:
    _plain_path(Path(text))
    return text


def _no_password(uri: str) -> str:
    # The configuration is copied to run.json, to reports and into Snakemake's records.
    try:
        has_password = urlsplit(uri).password is not None
    except ValueError as error:
        raise ValueError(f"not a URI: {error}") from None
    if has_password:
        raise ValueError(
            "a password does not belong into the configuration; MLflow reads "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, PostgreSQL reads PGPASSWORD"
        )
    return uri


def _unique(items: list[T]) -> list[T]:
    if repeated := [item for number, item in enumerate(items) if item in items[:number]]:
        raise ValueError(f"{repeated[0]!r} stands there twice")
    return items


# Paths end up in commands and in Snakemake's patterns too.
SafePath = Annotated[Path, AfterValidator(_plain_path)]
SafePathText = Annotated[str, StringConstraints(min_length=1), AfterValidator(_plain_path_text)]
# Captions are printed; control characters are not.
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=300)]
Uri = Annotated[Text, AfterValidator(_no_password)]
# Also of AdamW: a beta.
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Unique = AfterValidator(_unique)
"""Of a list: nothing twice. A seed counted twice would narrow an interval."""
MOST = 1000
"""Entries of a list that becomes runs or jobs."""


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
