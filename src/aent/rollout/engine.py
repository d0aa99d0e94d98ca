"""What an engine takes and gives, whichever library samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled: temperature first, then top-k, then top-p on what is left."""

    samples: int
    """Responses a prompt."""
    max_tokens: int
    """Longest response."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None


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
    vocabulary, before top-k and top-p; 0 where masked."""
    truncated: Tensor
    """[B] bool: no end-of-sequence token within the limit."""


class Engine(Protocol):
    """Samples responses."""

    def generate(
        self, prompts: list[list[int]], sampling: Sampling, generator: torch.Generator
    ) -> Rollouts:
        """Sample `sampling.samples` responses to each prompt.

        Args:
            prompts: token ids of each prompt, without padding.
            sampling: how to sample.
            generator: source of all randomness, on the engine's device.
        """
        ...
