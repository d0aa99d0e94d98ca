"""Truncated importance weights, where another implementation than the trainer's has sampled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aent.processes import Processes


@dataclass(frozen=True)
class Importance:
    """How much more likely the trainer's policy finds each sampled token than the sampler's."""

    ratios: Tensor
    """[B, R], 1 where the sampler gave no finite log-probability, 0 where masked."""
    mask: Tensor
    """[B, R] bool."""
    cap: float
    """Largest weight."""

    @property
    def weights(self) -> Tensor:
        """Factors [B, R] of the tokens' losses: the ratios, truncated."""
        return self.ratios.clamp(max=self.cap)

    def metrics(self, processes: Processes) -> dict[str, float]:
        """Statistics over all processes' tokens under their recorded names."""
        ratios = processes.gather(self.ratios[self.mask].double())
        return {
            "policy/importance_ratio_mean": float(ratios.mean()),
            "policy/importance_ratio_min": float(ratios.min()),
            "policy/importance_ratio_max": float(ratios.max()),
            "policy/importance_truncated_fraction": float((ratios > self.cap).double().mean()),
            "policy/sampler_gap_mean": float(ratios.log().abs().mean()),
        }


def importance(trainer: Tensor, sampler: Tensor, mask: Tensor, cap: float) -> Importance:
    """Weights that make up for sampling with slightly other probabilities.

    Truncated importance sampling: E_sampler[min(pi / mu, cap) * loss], a token at a time.

    Args:
        trainer: [B, R] log-probabilities under the policy as the trainer computes it.
        sampler: [B, R] the same as the sampler reported them; not finite where it did not.
        mask: [B, R] bool.
        cap: largest weight.
    """
    gap = (trainer - sampler).where(sampler.isfinite(), 0.0)
    return Importance(torch.exp(gap) * mask, mask, cap)
