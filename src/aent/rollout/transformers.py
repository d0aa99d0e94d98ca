"""Sampling with a transformers model: the prompt once a group, finished rows left out.

Differs from `model.generate` in what it does not do: no logits for prompt positions, no second
prefill for the samples of a group, no rows that have ended (they leave the batch and the cache in
batches, so that the copying pays), no Python a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from aent.rollout.engine import Rollouts, Sampling
from aent.rollout.sampling import choose

COMPACT_BELOW = 0.8  # of the rows still running, the share below which the cache is compacted


class TransformersEngine:
    """An `Engine` over any causal language model of transformers."""

    def __init__(self, model: PreTrainedModel, pad_id: int, eos_ids: list[int], rows: int = 4096):
        """Wrap a model; its weights are read at each call, so that training needs no copy.

        Args:
            model: the model, on its device.
            pad_id: token that fills padding.
            eos_ids: tokens that end a response; none for responses of full length.
            rows: sequences sampled at once; results do not depend on it.
        """
        self.model, self.pad_id, self.rows = model, pad_id, rows
        self.eos_ids = torch.tensor(eos_ids, dtype=torch.long, device=model.device)

    @torch.no_grad()
    def generate(
        self, prompts: list[list[int]], sampling: Sampling, generator: torch.Generator
    ) -> Rollouts:
        """Sample responses; see `Engine.generate`.

        Raises:
            ValueError: no prompt, an empty one, or one that leaves no room for the response.
        """
        self._check(prompts, sampling)
        device = self.model.device
        uniform = torch.rand(
            (len(prompts) * sampling.samples, sampling.max_tokens),
            generator=generator,
            device=generator.device,
            dtype=torch.float64,
        ).to(device)
        width = max(map(len, prompts))
        group = max(1, self.rows // sampling.samples)
        parts = []
        for start in range(0, len(prompts), group):
            ids, mask = self._pad(prompts[start : start + group], width)
            noise = uniform[start * sampling.samples :][: len(ids) * sampling.samples]
            parts.append(self._sample(ids, mask, sampling, noise))
        longest = max(part.response_ids.shape[1] for part in parts)
        return _join(parts, longest, self.pad_id)

    def _check(self, prompts: list[list[int]], sampling: Sampling) -> None:
        if not prompts or not all(prompts):
            raise ValueError(f"{len(prompts)} prompts, of which {prompts.count([])} are empty")
        longest = max(map(len, prompts))
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and longest + sampling.max_tokens > limit:
            raise ValueError(
                f"a prompt of {longest} tokens and a response of {sampling.max_tokens} exceed the "
                f"model's {limit} positions"
            )

    def _pad(self, prompts: list[list[int]], width: int) -> tuple[Tensor, Tensor]:
        ids = torch.full((len(prompts), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros((len(prompts), width), dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = True
        return ids.to(self.model.device), mask.to(self.model.device)

    def _sample(self, ids: Tensor, mask: Tensor, sampling: Sampling, uniform: Tensor) -> Rollouts:
        """Responses to some prompts: [p, P] ids and mask, [p * S, T] uniform numbers."""
        decoder, head = self.model.get_decoder(), self.model.get_output_embeddings()
        samples, limit = sampling.samples, sampling.max_tokens
        cache = DynamicCache(config=self.model.config)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        output = decoder(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        logits = head(output.last_hidden_state[:, -1]).float().repeat_interleave(samples, dim=0)
        cache.batch_repeat_interleave(samples)
        ids, mask = (tensor.repeat_interleave(samples, dim=0) for tensor in (ids, mask))
        rows = ids.shape[0]
        tokens = torch.full((rows, limit), self.pad_id, dtype=torch.long, device=ids.device)
        logprobs = torch.zeros((rows, limit), device=ids.device)
        lengths = torch.full((rows,), limit, device=ids.device)
        alive = torch.arange(rows, device=ids.device)  # rows still in the batch
        running = torch.ones(rows, dtype=torch.bool, device=ids.device)  # of those, not ended
        position = positions[:, -1:].repeat_interleave(samples, dim=0)
        seen = torch.cat([mask, mask.new_ones(rows, limit)], dim=1).long()
        prompt = ids.shape[1]
        ended = torch.zeros(rows, dtype=torch.bool, device=ids.device)
        for step in range(limit):
            chosen, logprob = choose(logits, uniform[alive, step], sampling)
            at = alive[running]
            tokens[at, step], logprobs[at, step] = chosen[running], logprob[running]
            stopped = running & torch.isin(chosen, self.eos_ids)
            ended[alive[stopped]] = True
            lengths[alive[stopped]] = step + 1
            running = running & ~stopped
            left = int(running.sum())
            if left == 0 or step == limit - 1:
                break
            if left < COMPACT_BELOW * len(alive):
                keep = running.nonzero().squeeze(1)
                cache.batch_select_indices(keep)
                alive, chosen, position, seen = (
                    alive[keep],
                    chosen[keep],
                    position[keep],
                    seen[keep],
                )
                running = running[keep]
            position = position + 1
            output = decoder(
                input_ids=chosen[:, None],
                attention_mask=seen[:, : prompt + step + 1],
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            )
            logits = head(output.last_hidden_state[:, -1]).float()
        longest = step + 1
        return Rollouts(
            prompt_ids=ids,
            prompt_mask=mask,
            response_ids=tokens[:, :longest],
            response_mask=torch.arange(longest, device=ids.device) < lengths[:, None],
            logprobs=logprobs[:, :longest],
            truncated=~ended,
        )


def _join(parts: list[Rollouts], longest: int, pad_id: int) -> Rollouts:
    """Parts below each other, responses padded to the longest."""

    def stack(name: str, fill: int | bool | float) -> Tensor:
        tensors = [getattr(part, name) for part in parts]
        padded = [
            torch.nn.functional.pad(tensor, (0, longest - tensor.shape[1]), value=fill)
            for tensor in tensors
        ]
        return torch.cat(padded)

    return Rollouts(
        prompt_ids=torch.cat([part.prompt_ids for part in parts]),
        prompt_mask=torch.cat([part.prompt_mask for part in parts]),
        response_ids=stack("response_ids", pad_id),
        response_mask=stack("response_mask", False),
        logprobs=stack("logprobs", 0.0),
        truncated=torch.cat([part.truncated for part in parts]),
    )
