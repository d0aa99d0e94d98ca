"""The training forward pass: statistics of the positions that predict response tokens alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aent.config.method import Space
from aent.entropy.statistics import TokenStatistics, token_statistics
from aent.rollout.engine import Rollouts

SCALED_LOGITS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)
"""Model options that change logits after the head; the entropy operation knows none of them."""


def changed_logits(model: PreTrainedModel) -> list[str]:
    """Why a model's logits are not its head's product, a phrase a reason; none for most models."""
    config = model.config.get_text_config()
    values = {name: getattr(config, name, None) for name in SCALED_LOGITS}
    return [
        f"models with {name} (given: {value}); it must be 1 or absent"
        for name, value in values.items()
        if value not in (None, 1)
    ]


class TokenPolicy(nn.Module):
    """The policy's training forward pass as one module, for engines that wrap modules."""

    def __init__(
        self, policy: PreTrainedModel, space: Space, temperature: float, compiled: bool = False
    ):
        """Wrap a policy.

        Args:
            policy: the model.
            space: token space of the clamped entropy.
            temperature: divides the logits.
            compiled: run the transformer through `torch.compile`.
        """
        super().__init__()
        self.policy, self.space, self.temperature = policy, space, temperature
        self._no_split_modules = policy._no_split_modules  # where FSDP2 may cut
        decoder: Any = policy.get_decoder()
        run: Any = torch.compile(decoder, dynamic=True) if compiled else decoder
        # In a tuple, because it is no further part of the module: its weights are the policy's.
        self._decoder = (run,)

    def forward(self, rollouts: Rollouts) -> TokenStatistics:
        """Statistics, each [N], of the N response tokens, row by row."""
        hidden = response_hidden(self._decoder[0], rollouts)
        head = self.policy.get_output_embeddings()
        return token_statistics(
            hidden,
            # Keyed to the hidden states, so that bf16 training multiplies in bf16 here as well.
            head.weight.to(hidden.dtype),
            rollouts.response_ids[rollouts.response_mask],
            temperature=self.temperature,
            space=self.space,
            bias=head.bias,
        )


def response_hidden(transformer: nn.Module, rollouts: Rollouts) -> Tensor:
    """Hidden states from which each response token is predicted.

    Only these reach the language-model head, so that no logits are computed for prompt or padding
    positions.

    Args:
        transformer: a decoder without its head (`PreTrainedModel.get_decoder()`).
        rollouts: B rows of left-padded prompts [B, P] and right-padded responses [B, R].

    Returns:
        [N, H], N = response tokens in row-major order, as in `responses[mask]`.
    """
    prompt = rollouts.prompt_ids.shape[1]
    ids = torch.cat([rollouts.prompt_ids, rollouts.response_ids], dim=1)
    mask = torch.cat([rollouts.prompt_mask, rollouts.response_mask], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    output = transformer(
        input_ids=ids[:, :-1],
        attention_mask=mask[:, :-1].long(),
        position_ids=positions[:, :-1],
        use_cache=False,
    )
    predicting: Tensor = output.last_hidden_state[:, prompt - 1 :]
    return predicting[rollouts.response_mask]


def select(rollouts: Rollouts, rows: Tensor) -> Rollouts:
    """Some rows, with the padding that all of them share cut away.

    Args:
        rollouts: B rows.
        rows: [b] indices.
    """
    prompt_mask, response_mask = rollouts.prompt_mask[rows], rollouts.response_mask[rows]
    prompt = int(prompt_mask.sum(dim=1).max())
    response = max(int(response_mask.sum(dim=1).max()), 1)
    start = prompt_mask.shape[1] - prompt
    return Rollouts(
        prompt_ids=rollouts.prompt_ids[rows, start:],
        prompt_mask=prompt_mask[:, start:],
        response_ids=rollouts.response_ids[rows, :response],
        response_mask=response_mask[:, :response],
        logprobs=rollouts.logprobs[rows, :response],
        truncated=rollouts.truncated[rows],
    )
