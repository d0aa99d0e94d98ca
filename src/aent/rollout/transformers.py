"""Sampling with a transformers model: the prompt once a group, finished rows left out.

Differs from `model.generate` in what it does not do: no logits for prompt positions, no second
prefill for the samples of a group, no copy of the cache at each token, no rows that have ended
(they leave the batch and the cache several at a time, so that the copying pays), no Python a row.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from aent.processes import Share
from aent.rollout import cache as caches
from aent.rollout.engine import Rollouts, Sampling
from aent.rollout.padding import left_padded
from aent.rollout.sampling import choose

log = logging.getLogger(__name__)

COMPACT_BELOW = 0.8
"""Rows that have ended leave when less than this share of the batch still runs."""


class TransformersEngine:
    """An `Engine` over any causal language model of transformers with a key/value cache."""

    def __init__(
        self,
        model: PreTrainedModel,
        pad_id: int,
        eos_ids: list[int],
        rows: int = 4096,
        whole: Callable[[], AbstractContextManager[None]] = nullcontext,
    ):
        """Wrap a model; its weights are read at each call, so that training needs no copy.

        Args:
            model: the model, on its device.
            pad_id: token that fills padding.
            eos_ids: tokens that end a response; none for responses of full length.
            rows: sequences sampled at once at most; it bounds memory, results do not depend on it
                (up to rounding in matrix products of other sizes).
            whole: around sampling, where weights are shared out to several processes otherwise.

        Raises:
            ValueError: rows is not positive.
        """
        if rows < 1:
            raise ValueError(f"rows is {rows}; at least 1 is allowed")
        self.model, self.pad_id, self.rows, self.whole = model, pad_id, rows, whole
        self.eos_ids = torch.tensor(eos_ids, dtype=torch.long, device=model.device)
        accepted = inspect.signature(model.forward).parameters
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    @torch.no_grad()
    def generate(
        self,
        prompts: list[list[int]],
        sampling: Sampling,
        generator: torch.Generator,
        share: Share | None = None,
    ) -> Rollouts:
        """Sample responses; see `Engine.generate`.

        Raises:
            ValueError: no prompt, an empty one, or one that leaves no room for the response.
        """
        self._check(prompts, sampling)
        device, limit = self.model.device, sampling.max_tokens
        count = len(prompts) * sampling.samples
        # Drawn for all rows at once: a row's numbers depend on nothing that happens to others.
        total = share.total if share else len(prompts)
        uniform = torch.rand(
            (total, sampling.samples, limit),
            generator=generator,
            device=generator.device,
            dtype=torch.float64,
        )
        if share and share.places != list(range(total)):
            uniform = uniform[share.places]
        uniform = uniform.flatten(0, 1).to(device)
        responses = _Responses(
            tokens=torch.full((count, limit), self.pad_id, device=device),
            logprobs=torch.zeros((count, limit), device=device),
            lengths=torch.zeros(count, dtype=torch.long, device=device),
            ended=torch.zeros(count, dtype=torch.bool, device=device),
        )
        with self.whole(), _evaluating(self.model):
            for chosen, samples in _batches([len(p) for p in prompts], sampling.samples, self.rows):
                first = torch.tensor(chosen, device=device)[:, None] * sampling.samples
                rows = (first + torch.tensor(samples, device=device)).flatten()
                ids, mask = self._pad([prompts[place] for place in chosen])
                self._sample(ids, mask, rows, sampling, uniform, responses)
        broken = int((~responses.logprobs.isfinite()).any(dim=1).sum())
        if broken:  # a trainer refuses them with the step's name; a score of them is meaningless
            log.warning("%d of %d responses: the model's logits are not finite", broken, count)
        ids, mask = (t.repeat_interleave(sampling.samples, dim=0) for t in self._pad(prompts))
        longest = int(responses.lengths.max())
        return Rollouts(
            prompt_ids=ids,
            prompt_mask=mask,
            response_ids=responses.tokens[:, :longest],
            response_mask=torch.arange(longest, device=device) < responses.lengths[:, None],
            logprobs=responses.logprobs[:, :longest],
            truncated=~responses.ended,
        )

    def _check(self, prompts: list[list[int]], sampling: Sampling) -> None:
        if not prompts or not all(prompts):
            raise ValueError(f"{len(prompts)} prompts, of which {prompts.count([])} are empty")
        longest = max(map(len, prompts))
        config = self.model.config.get_text_config(decoder=True)
        limit = getattr(config, "max_position_embeddings", None)
        if limit is not None and longest + sampling.max_tokens > limit:
            raise ValueError(
                f"a prompt of {longest} tokens and a response of {sampling.max_tokens} exceed the "
                f"model's {limit} positions"
            )

    def _pad(self, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
        return left_padded(prompts, self.pad_id, self.model.device)

    def _sample(
        self,
        ids: Tensor,
        mask: Tensor,
        rows: Tensor,
        sampling: Sampling,
        uniform: Tensor,
        responses: _Responses,
    ) -> None:
        """Fill some rows of the responses.

        Args:
            ids: [p, P] left-padded prompts.
            mask: [p, P] bool.
            rows: [p * s] places of the batch's rows in `uniform` and `responses`.
            sampling: how to sample.
            uniform: [B, T] random numbers.
            responses: what to fill.
        """
        repeats = len(rows) // len(ids)
        batch, logits = self._prefill(ids, mask, rows, repeats, sampling.max_tokens)
        for step in range(sampling.max_tokens):
            tokens, logprobs = choose(logits, uniform[batch.rows, step], sampling)
            left = responses.add(step, batch, tokens, logprobs, self.pad_id, self.eos_ids)
            if left == 0 or step == sampling.max_tokens - 1:
                return
            if left < COMPACT_BELOW * len(batch.rows):
                tokens = batch.compact(tokens)
            logits = self._decode(batch, tokens)

    def _prefill(
        self, ids: Tensor, mask: Tensor, rows: Tensor, repeats: int, room: int
    ) -> tuple[_Batch, Tensor]:
        """Run the prompts once; gives the repeated batch and the first logits [p * s, V]."""
        cache = DynamicCache(config=self.model.config)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        output = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **self._options,
        )
        caches.repeat(cache, repeats)
        batch = _Batch(
            rows=rows,
            running=torch.ones_like(rows, dtype=torch.bool),
            position=positions[:, -1:].repeat_interleave(repeats, dim=0),
            seen=torch.nn.functional.pad(mask.long(), (0, room), value=1).repeat_interleave(
                repeats, dim=0
            ),
            length=ids.shape[1],
            cache=cache,
        )
        return batch, output.logits[:, -1].float().repeat_interleave(repeats, dim=0)

    def _decode(self, batch: _Batch, tokens: Tensor) -> Tensor:
        """Logits [b, V] behind one more token [b] a row."""
        batch.position = batch.position + 1
        batch.length += 1
        output = self.model(
            input_ids=tokens[:, None],
            attention_mask=batch.seen[:, : batch.length],
            position_ids=batch.position,
            past_key_values=batch.cache,
            use_cache=True,
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits


@dataclass
class _Batch:
    """The rows that are sampled together: b of them, some of which may have ended."""

    rows: Tensor
    """[b] places in the responses."""
    running: Tensor
    """[b] bool."""
    position: Tensor
    """[b, 1], of the last token fed to the model."""
    seen: Tensor
    """[b, P + T], 0 at the padding of prompts, else 1."""
    length: int
    """Tokens in the cache, padding included."""
    cache: DynamicCache

    def compact(self, tokens: Tensor) -> Tensor:
        """Drop rows that have ended, here and in tokens [b]."""
        keep = self.running.nonzero().squeeze(1)
        self.cache.batch_select_indices(keep)
        self.rows, self.running = self.rows[keep], self.running[keep]
        self.position, self.seen = self.position[keep], self.seen[keep]
        return tokens[keep]


@dataclass
class _Responses:
    """All rows' responses, filled step by step."""

    tokens: Tensor
    """[B, T]."""
    logprobs: Tensor
    """[B, T]."""
    lengths: Tensor
    """[B]."""
    ended: Tensor
    """[B] bool: with an end-of-sequence token."""

    def add(
        self,
        step: int,
        batch: _Batch,
        tokens: Tensor,
        logprobs: Tensor,
        pad_id: int,
        eos_ids: Tensor,
    ) -> int:
        """Add a token [b] and its log-probability a running row; gives how many go on."""
        self.tokens[batch.rows, step] = tokens.where(batch.running, pad_id)
        self.logprobs[batch.rows, step] = logprobs.where(batch.running, 0.0)
        self.lengths[batch.rows] += batch.running
        stopped = torch.isin(tokens, eos_ids)
        self.ended[batch.rows] |= stopped & batch.running
        batch.running = batch.running & ~stopped
        return int(batch.running.sum())


def _batches(lengths: list[int], samples: int, rows: int) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts of similar length, and which of their samples, to be sampled together."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    group = max(1, rows // samples)
    for start in range(0, len(order), group):
        for first in range(0, samples, rows):
            last = min(samples, first + rows)
            yield order[start : start + group], list(range(first, last))


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """No dropout; and gradient checkpointing, in training mode, would drop the cache."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
