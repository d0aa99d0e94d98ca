"""Sampling a batch with several processes: each has a share, and all get everything."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from aent.processes import Processes, Share
from aent.rollout.engine import Engine, Rollouts, Sampling
from aent.rollout.padding import left_padded


class SharedEngine:
    """An `Engine` that divides prompts among processes, all of which call it with the same ones."""

    def __init__(self, engine: Engine, pad_id: int, processes: Processes):
        """Wrap each process's own engine."""
        self.engine, self.pad_id, self.processes = engine, pad_id, processes

    def generate(
        self,
        prompts: list[list[int]],
        sampling: Sampling,
        generator: torch.Generator,
        share: Share | None = None,
    ) -> Rollouts:
        """Sample responses to all prompts; see `Engine.generate`."""
        whole = share or Share(list(range(len(prompts))), len(prompts))
        # As many in each process; the last prompt fills up, and what it adds is dropped.
        size = -(-len(prompts) // self.processes.count)
        first = self.processes.rank * size
        mine = [min(first + n, len(prompts) - 1) for n in range(size)]
        here = self.engine.generate(
            [prompts[place] for place in mine],
            sampling,
            generator,
            Share([whole.places[place] for place in mine], whole.total),
        )
        width = int(self.processes.gather(_width(here)).max())

        def everything(values: Tensor) -> Tensor:
            return self.processes.gather(values)[: len(prompts) * sampling.samples]

        def widened(values: Tensor, fill: float) -> Tensor:
            return everything(pad(values, (0, width - values.shape[1]), value=fill))

        ids, mask = left_padded(prompts, self.pad_id, here.response_ids.device)
        return Rollouts(
            prompt_ids=ids.repeat_interleave(sampling.samples, dim=0),
            prompt_mask=mask.repeat_interleave(sampling.samples, dim=0),
            response_ids=widened(here.response_ids, self.pad_id),
            response_mask=widened(here.response_mask, False),
            logprobs=widened(here.logprobs, 0.0),
            truncated=everything(here.truncated),
        )


def _width(rollouts: Rollouts) -> Tensor:
    return torch.tensor([rollouts.response_ids.shape[1]], device=rollouts.response_ids.device)
