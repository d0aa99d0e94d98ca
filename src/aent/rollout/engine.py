"""What an engine takes and gives, whichever library samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from aent.processes import Share


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled: temperature first, then top-k, then top-p on what is left.

    Raises:
        ValueError: a value outside its range.
    """

    samples: int
    """Responses a prompt."""
    max_tokens: int
    """Longest response."""
    temperature: float = 1.0
    """Divides the logits."""
    top_p: float = 1.0
    """Of the tokens that top-k leaves, the smallest set of most likely ones with this share."""
    top_k: int | None = None
    """Most likely tokens that may be chosen; all when None, greedy decoding when 1."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, low in (("samples", 1), ("max_tokens", 1), ("top_k", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name} is {value}; at least {low} is allowed")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; a positive number is allowed")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; above 0 and up to 1 is allowed")


@dataclass
class Rollouts:
    """B = prompts x samples rows; the rows of a prompt are consecutive."""

    prompt_ids: Tensor
    """[B, P] int64, left-padded."""
    prompt_mask: Tensor
    """[B, P] bool."""
    response_ids: Tensor
    """[B, R] int64, right-padded."""
    response_mask: Tensor
    """[B, R] bool; the end-of-sequence token counts."""
    logprobs: Tensor
    """[B, R] float32, of the sampled tokens under softmax(logits / temperature) over the whole
    vocabulary, before top-k and top-p; 0 where masked. Not finite where the logits are not."""
    truncated: Tensor
    """[B] bool: no end-of-sequence token within the limit."""


class Engine(Protocol):
    """Samples responses."""

    def generate(
        self,
        prompts: list[list[int]],
        sampling: Sampling,
        generator: torch.Generator,
        share: Share | None = None,
    ) -> Rollouts:
        """Sample `sampling.samples` responses to each prompt.

        Args:
            prompts: token ids of each prompt, without padding.
            sampling: how to sample.
            generator: source of all randomness; its state decides the result.
            share: the prompts' places in a batch that several processes sample; all when absent.
        """
        ...
