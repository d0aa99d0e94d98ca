"""What a method can name has its one registration, and nothing else has."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from aent.advantages import ESTIMATORS
from aent.config.method import Advantage, Coefficient, Space, Surrogate
from aent.entropy.coefficients import RULES
from aent.entropy.spaces import SPACES
from aent.surrogates import SURROGATES


@pytest.mark.parametrize(
    ("models", "registry"),
    [(Advantage, ESTIMATORS), (Surrogate, SURROGATES), (Space, SPACES), (Coefficient, RULES)],
    ids=["advantage", "surrogate", "space", "coefficient"],
)
def test_every_kind_is_registered(models, registry):
    schema = TypeAdapter(models).json_schema()
    kinds = [model["properties"]["kind"]["const"] for model in _models(schema)]
    assert kinds
    assert sorted(kinds) == sorted(registry)


def _models(schema):
    return [schema] if "properties" in schema else schema["$defs"].values()
