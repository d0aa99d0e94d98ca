"""What one step of the loop collects: responses, rewards and advantages."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from aent.advantages import Estimate, estimate
from aent.config import Method
from aent.critic import ValueModel
from aent.problems.record import Problem
from aent.rewards import Verdict, Verifier
from aent.rollout.engine import Engine, Rollouts, Sampling


@dataclass(frozen=True)
class Prompted:
    """A problem with its prompt as tokens."""

    problem: Problem
    tokens: list[int]


@dataclass(frozen=True)
class Experience:
    """One step's batch; B = prompts x samples rows, rows of a prompt are consecutive."""

    prompted: list[Prompted]
    rollouts: Rollouts
    completions: list[str]
    verdicts: list[Verdict]
    rewards: Tensor
    """[P, S]."""
    estimate: Estimate
    """Advantages [B, R], and returns where a critic learns."""
    values: Tensor | None
    """[B, R], the critic's values at collection."""
    rollout_s: float
    reward_s: float

    def metrics(self) -> dict[str, float]:
        """Reward and response statistics under their recorded names."""
        lengths = self.rollouts.response_mask.sum(dim=1).float()
        return {
            "reward/mean": float(self.rewards.mean()),
            "reward/std": float(self.rewards.std()),
            "reward/zero_variance_fraction": float((self.rewards.std(dim=1) == 0).float().mean()),
            "reward/unparsed_fraction": sum(not v.parsed for v in self.verdicts)
            / len(self.verdicts),
            "response/length_mean": float(lengths.mean()),
            "response/truncated_fraction": float(self.rollouts.truncated.float().mean()),
            "time/rollout_s": self.rollout_s,
            "time/reward_s": self.reward_s,
        }


def collect(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    verifier: Verifier,
    method: Method,
    prompted: list[Prompted],
    sampling: Sampling,
    generator: torch.Generator,
    critic: ValueModel | None = None,
) -> Experience:
    """Sample responses, score them, and estimate advantages.

    A response that was cut at the length limit earns 0, whatever stands in it.
    """
    start = time.perf_counter()
    rollouts = engine.generate([item.tokens for item in prompted], sampling, generator)
    sampled = time.perf_counter()
    completions = decode(tokenizer, rollouts)
    answers = [item.problem.answer for item in prompted for _ in range(sampling.samples)]
    verdicts = verifier.score(completions, answers)
    mask = rollouts.response_mask
    scores = torch.tensor([verdict.score for verdict in verdicts], device=mask.device)
    rewards = (scores * ~rollouts.truncated).reshape(len(prompted), sampling.samples)
    scored = time.perf_counter()
    values = None
    if critic is not None:
        with torch.no_grad():
            values = torch.zeros(mask.shape, device=mask.device)
            values[mask] = critic(rollouts).float()
    return Experience(
        prompted=prompted,
        rollouts=rollouts,
        completions=completions,
        verdicts=verdicts,
        rewards=rewards,
        estimate=estimate(method.advantage, rewards, mask, values),
        values=values,
        rollout_s=sampled - start,
        reward_s=scored - sampled,
    )


def decode(tokenizer: PreTrainedTokenizerBase, rollouts: Rollouts) -> list[str]:
    """Responses as text, without special tokens."""
    lengths = rollouts.response_mask.sum(dim=1).tolist()
    rows = rollouts.response_ids.tolist()
    tokens = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    return tokenizer.batch_decode(tokens, skip_special_tokens=True)
