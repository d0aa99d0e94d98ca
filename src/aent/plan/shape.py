"""Shapes of models, from the configuration or a config.json, and how many weights they have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aent.config import Config, PretrainedModel, ScratchModel, describe
from aent.config.model import Shape


class PlanError(ValueError):
    """Something that a plan needs is not known; the message names the key."""


def shape_of(config: Config, name: str) -> Shape:
    """The shape of a base model.

    A local directory and a model that has been fetched say it themselves; otherwise the
    configuration must.

    Raises:
        PlanError: nobody says it, or a config.json is of an architecture that we cannot count.
    """
    model = config.models[name]
    if isinstance(model, ScratchModel):
        return Shape(
            layers=model.layers,
            hidden=model.hidden,
            intermediate=model.intermediate,
            heads=model.heads,
            kv_heads=model.kv_heads,
            vocabulary=model.vocabulary,
            tied=True,
        )
    folders = [] if model.is_hub_id else [Path(model.path)]
    for folder in [*folders, config.results / "models" / name]:
        if (folder / "config.json").is_file():
            return read_shape(folder / "config.json", f"models.{name}")
    if model.shape is None:
        raise PlanError(f"models.{name}: {_advice(model)}")
    return model.shape


def _advice(model: PretrainedModel) -> str:
    return (
        f"the shape of {model.path} is not known here; give it under `shape` (layers, hidden, "
        "intermediate, heads, kv_heads, vocabulary, tied), or fetch the model first"
    )


def read_shape(path: Path, where: str) -> Shape:
    """The shape that a model's config.json gives, of the Llama and Qwen2 family.

    Raises:
        PlanError: it is unreadable, or lacks a number.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PlanError(f"{where}: {path}: {error}") from None
    kind = data.get("model_type")
    names = {
        "layers": "num_hidden_layers",
        "hidden": "hidden_size",
        "intermediate": "intermediate_size",
        "heads": "num_attention_heads",
        "vocabulary": "vocab_size",
    }
    if missing := [key for key in names.values() if key not in data]:
        raise PlanError(f"{where}: {path}: no {missing}; a decoder like Qwen2 or Llama is needed")
    try:
        return Shape(
            **{ours: data[theirs] for ours, theirs in names.items()},
            kv_heads=data.get("num_key_value_heads") or data["num_attention_heads"],
            head_size=data.get("head_dim"),
            tied=bool(data.get("tie_word_embeddings", False)),
            attention_bias=bool(data.get("attention_bias", kind == "qwen2")),
        )
    except ValidationError as error:
        raise PlanError(f"{path}: {describe(error, where)}") from None


def layer_parameters(shape: Shape) -> int:
    """Weights of one layer: attention, gated feed-forward and two norms."""
    attention = 2 * shape.hidden * (shape.attention_width + shape.kv_width)
    biases = shape.attention_width + 2 * shape.kv_width if shape.attention_bias else 0
    return attention + biases + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden


def transformer_parameters(shape: Shape) -> int:
    """Weights without the language-model head, embeddings included."""
    layers = shape.layers * layer_parameters(shape)
    return shape.vocabulary * shape.hidden + layers + shape.hidden


def parameters(shape: Shape) -> int:
    """All weights; a tied head counts once."""
    return transformer_parameters(shape) + (0 if shape.tied else shape.vocabulary * shape.hidden)
