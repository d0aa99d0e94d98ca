"""What one step of the loop collects: responses, rewards and advantages."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from aent.advantages import Estimate, estimate
from aent.config import Method
from aent.importance import Importance
from aent.problems.record import Problem
from aent.processes import Processes, Share
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
    importance: Importance | None = None
    """Weights of the tokens' losses, where another implementation has sampled."""

    def metrics(self, processes: Processes | None = None) -> dict[str, float]:
        """Reward and response statistics under their recorded names.

        Args:
            processes: those whose experience counts; this one's alone when absent.
        """
        processes = processes or Processes()
        rewards = processes.gather(self.rewards)
        parsed = torch.tensor([v.parsed for v in self.verdicts], device=rewards.device)
        lengths = processes.gather(self.rollouts.response_mask.sum(dim=1).float())
        weights = self.importance.metrics(processes) if self.importance else {}
        return weights | {
            "reward/mean": float(rewards.mean()),
            "reward/std": float(rewards.std()),
            "reward/zero_variance_fraction": float((rewards.std(dim=1) == 0).float().mean()),
            "reward/unparsed_fraction": float((~processes.gather(parsed)).double().mean()),
            "response/length_mean": float(lengths.mean()),
            "response/truncated_fraction": float(
                processes.gather(self.rollouts.truncated).float().mean()
            ),
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
    value: Callable[[Rollouts], Tensor] | None = None,
    weigh: Callable[[Rollouts], tuple[Rollouts, Importance]] | None = None,
    processes: Processes | None = None,
    share: Share | None = None,
) -> Experience:
    """Sample responses, score them, and estimate advantages.

    A response that was cut at the length limit earns 0, whatever stands in it.

    Args:
        engine: samples.
        tokenizer: makes texts of the responses.
        verifier: scores them.
        method: advantage estimator.
        prompted: this process's prompts.
        sampling: how to sample.
        generator: source of the noise, in the same state in all processes.
        value: a critic's values [B, R]; with methods that have one.
        weigh: puts the trainer's log-probabilities in place of the engine's and weighs the tokens;
            with engines whose log-probabilities differ.
        processes: those that share the step; this one alone when absent.
        share: places of this process's prompts in the step.
    """
    start = time.perf_counter()
    rollouts = engine.generate([item.tokens for item in prompted], sampling, generator, share)
    rollouts, importance = weigh(rollouts) if weigh else (rollouts, None)
    sampled = time.perf_counter()
    completions = decode(tokenizer, rollouts)
    answers = [item.problem.answer for item in prompted for _ in range(sampling.samples)]
    verdicts = verifier.score(completions, answers)
    mask = rollouts.response_mask
    scores = torch.tensor([verdict.score for verdict in verdicts], device=mask.device)
    rewards = (scores * ~rollouts.truncated).reshape(len(prompted), sampling.samples)
    scored = time.perf_counter()
    values = value(rollouts) if value else None
    pool = processes.gather if processes else None
    return Experience(
        prompted=prompted,
        rollouts=rollouts,
        completions=completions,
        verdicts=verdicts,
        rewards=rewards,
        estimate=estimate(method.advantage, rewards, mask, values, pool),
        values=values,
        rollout_s=sampled - start,
        reward_s=scored - sampled,
        importance=importance,
    )


def decode(tokenizer: PreTrainedTokenizerBase, rollouts: Rollouts) -> list[str]:
    """Responses as text, without special tokens."""
    lengths = rollouts.response_mask.sum(dim=1).tolist()
    rows = rollouts.response_ids.tolist()
    tokens = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    return tokenizer.batch_decode(tokens, skip_special_tokens=True)
