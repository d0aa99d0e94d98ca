"""Base models: built from scratch with a supervised warm start, or pretrained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from aent.config.base import Fraction, Name, SafePathText, Seed, Strict


class Demonstrations(Strict):
    """Shares of the kinds of demonstration the warm start imitates; the rest answer directly."""

    full: float = Field(default=0.25, ge=0, le=1)
    """Worked to the end."""
    partial: float = Field(default=0.5, ge=0, le=1)
    """Cut after any step but the last, boxing the running value: what RL can unlearn."""
    full_first: float = Field(default=0.6, ge=0, le=1)
    """Share of the steps, at the start, that show full solutions only: skill before habits."""

    @model_validator(mode="after")
    def _shares(self) -> Demonstrations:
        if self.full + self.partial > 1:
            raise ValueError(f"full + partial is {self.full + self.partial}, at most 1 is allowed")
        return self


class WarmStart(Strict):
    """Supervised training of a fresh model on worked solutions, loss on completions only."""

    problems: Name
    """Problem set to imitate; its records need solutions."""
    demonstrations: Demonstrations = Demonstrations()
    """Mixture of full, partial and direct solutions."""
    steps: int = Field(default=1200, ge=1)
    """Optimiser steps."""
    batch: int = Field(default=16, ge=1)
    """Demonstrations a step."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Peak learning rate of AdamW."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    """AdamW betas."""
    warmup_steps: int = Field(default=50, ge=0)
    """Linear warm-up."""
    decay_fraction: float = Field(default=0.3, ge=0, le=1)
    """Share of the steps, at the end, over which the rate falls linearly to zero."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    seed: Seed = 0
    """Seed of initialisation, mixture and order."""
    threads: int = Field(default=1, ge=1)
    """CPU threads."""


class ScratchModel(Strict):
    """A small Qwen2-architecture causal language model with tied embeddings."""

    kind: Literal["scratch"]
    vocabulary: int = Field(default=4096, ge=1600)
    """Tokens; the task uses far fewer, as a language model's task does."""
    hidden: int = Field(default=64, ge=8)
    """Width."""
    intermediate: int = Field(default=192, ge=8)
    """Width of the feed-forward layers."""
    layers: int = Field(default=2, ge=1)
    """Transformer layers."""
    heads: int = Field(default=2, ge=1)
    """Attention heads."""
    kv_heads: int = Field(default=1, ge=1)
    """Key/value heads."""
    positions: int = Field(default=8192, ge=16)
    """Longest sequence; costs nothing (rotary positions), and real problems are long in bytes."""
    init_std: float = Field(default=0.06, gt=0)
    """Standard deviation of the initial weights."""
    warm_start: WarmStart
    """The supervised start."""

    @model_validator(mode="after")
    def _heads(self) -> ScratchModel:
        if self.hidden % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(
                f"hidden {self.hidden} must be a multiple of twice the {self.heads} heads, "
                f"and heads a multiple of the {self.kv_heads} kv_heads"
            )
        return self


class Shape(Strict):
    """Shape of a decoder of the Qwen2 and Llama family, as its config.json gives it."""

    layers: int = Field(ge=1)
    """num_hidden_layers."""
    hidden: int = Field(ge=1)
    """hidden_size."""
    intermediate: int = Field(ge=1)
    """intermediate_size."""
    heads: int = Field(ge=1)
    """num_attention_heads."""
    kv_heads: int = Field(ge=1)
    """num_key_value_heads."""
    vocabulary: int = Field(ge=1)
    """vocab_size."""
    tied: bool
    """tie_word_embeddings: whether the head is the embedding."""
    head_size: int | None = Field(default=None, ge=1)
    """head_dim; hidden over heads when absent."""
    attention_bias: bool = True
    """Whether queries, keys and values have a bias: Qwen2 has, Llama has not."""

    @property
    def attention_width(self) -> int:
        """Width of all heads together."""
        return self.heads * (self.head_size or self.hidden // self.heads)

    @property
    def kv_width(self) -> int:
        """Width of all key (or value) heads together."""
        return self.kv_heads * (self.head_size or self.hidden // self.heads)


class PretrainedModel(Strict):
    """An existing model: a directory that AutoModelForCausalLM opens, or a hub id."""

    kind: Literal["pretrained"]
    path: SafePathText
    """Local directory or hub id `owner/name`."""
    revision: SafePathText = "main"
    """Commit to take from the hub; `aent pin` writes it in. A tag or branch goes too, with a
    warning."""
    shape: Shape | None = None
    """Shape of a model on the hub, for `aent plan`, which looks at no hub."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the model. Only where you have read it."""
    pad_token: str | None = Field(default=None, min_length=1, max_length=100)
    """Token of the vocabulary that fills padding, for a tokenizer that names none. Padding is
    masked: the token that ends a sequence will do."""

    @property
    def is_hub_id(self) -> bool:
        """Whether `path` means the hub: spelled `owner/name`, and no such local path."""
        spelled = self.path.count("/") == 1 and not self.path.startswith((".", "/", "~"))
        return spelled and not Path(self.path).exists()


Model = Annotated[ScratchModel | PretrainedModel, Field(discriminator="kind")]
