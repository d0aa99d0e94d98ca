"""The language-model head that TRL's trainers call, with the entropies of a token space."""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from aent.config.method import Space
from aent.entropy import token_statistics

UNSCORED = -100
"""Label of positions without a log-probability, TRL's."""


def add_entropy_head(
    model: PreTrainedModel, temperature: float, space: Space, cast_to_float32: bool = False
) -> None:
    """Replace what `model(..., labels=..., fused_lm_head=True)` computes; TRL calls it so.

    The output's `log_probs` are [B, L - 1], and its `entropy` [B, L - 1, 3]: over the vocabulary,
    over the space, and the space's mass; 0 where the next token's label is -100. Packed into one
    field, they pass through TRL's code and through wrappers of the model such as DDP.

    Args:
        model: Causal language model; calls without `fused_lm_head` are left as they are.
        temperature: Divides the logits.
        space: Token space of the clamped entropy.
        cast_to_float32: Compute the head in float32, also under autocast.
    """
    plain = model.forward

    @functools.wraps(type(model).forward)  # `generate` reads the signature
    def forward(
        self: PreTrainedModel, *args: Any, fused_lm_head: bool = False, **kwargs: Any
    ) -> Any:
        if not fused_lm_head:
            return plain(*args, **kwargs)
        labels = kwargs.pop("labels")[:, 1:]
        scored = labels != UNSCORED
        hidden = self.base_model(*args, **kwargs, use_cache=False).last_hidden_state[:, :-1]
        head = self.get_output_embeddings()
        device = head.weight.device
        dtype = head.weight.dtype
        if torch.is_autocast_enabled(device.type) and not cast_to_float32:
            dtype = torch.get_autocast_dtype(device.type)
        with torch.autocast(device.type, enabled=False):
            statistics = token_statistics(
                hidden[scored].to(device, dtype),
                head.weight.to(dtype),
                labels[scored].to(device),
                temperature=temperature,
                space=space,
                bias=None if head.bias is None else head.bias.to(dtype),
            )
        packed = torch.zeros(*labels.shape, 4, device=device)
        packed[scored.to(device)] = torch.stack(statistics, dim=-1)
        return FusedCausalLMOutput(log_probs=packed[..., 0], entropy=packed[..., 1:])

    model.forward = types.MethodType(forward, model)
