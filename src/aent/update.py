"""The update: minibatch steps on one step's experience.

The loss of a minibatch is the token mean of the surrogate minus lambda times the token mean of the
entropy over the method's token space, both from one forward pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aent.config import Method
from aent.config.method import FullSpace, Space
from aent.config.setting import Trainer
from aent.critic import ValueModel, value_loss
from aent.entropy.statistics import token_statistics
from aent.experience import Experience
from aent.failure import NonFiniteError
from aent.forward import response_hidden, select
from aent.surrogates import surrogate_loss


@dataclass
class TokenMeans:
    """Means over all response tokens seen in a step, weighted by token."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens: int = 0

    def add(self, tokens: int, **values: Tensor) -> None:
        """Add sums over `tokens` tokens; each value is [N]."""
        self.tokens += tokens
        for name, value in values.items():
            self.sums[name] += float(value.detach().double().sum())

    def __getitem__(self, name: str) -> float:
        return self.sums[name] / self.tokens


class Updater:
    """Applies one step's experience to the policy, and to the critic where there is one."""

    def __init__(
        self,
        policy: PreTrainedModel,
        method: Method,
        config: Trainer,
        temperature: float,
        critic: ValueModel | None = None,
    ):
        """Make the optimisers.

        Args:
            policy: the model to train.
            method: surrogate, entropy term and critic options.
            config: trainer options.
            temperature: divides the logits, as in sampling.
            critic: the value network, with methods that have one.
        """
        self.policy, self.method, self.config = policy, method, config
        self.temperature = temperature
        self.critic = critic
        self.optimizer = self._adamw(policy, config.learning_rate)
        self.critic_optimizer = (
            self._adamw(critic, method.critic.learning_rate) if critic and method.critic else None
        )
        self.space = measured_space(method, config)
        self.bonus_is_full = method.entropy is not None and isinstance(
            method.entropy.space, FullSpace
        )

    def _adamw(self, module: nn.Module, rate: float) -> torch.optim.AdamW:
        # foreach: one call for all parameters; a step has many small ones on a laptop.
        return torch.optim.AdamW(
            module.parameters(),
            lr=rate,
            betas=self.config.betas,
            weight_decay=self.config.weight_decay,
            foreach=True,
        )

    def update(self, step: int, experience: Experience, coefficient: float) -> dict[str, float]:
        """All epochs and minibatches of one step.

        Args:
            step: global step, from 1; the critic's warm-up counts in it.
            experience: what the step collected.
            coefficient: lambda of the entropy term; 0 without one.

        Returns:
            Recorded metrics, means over the step's tokens (or minibatches, for `grad/norm`).

        Raises:
            NonFiniteError: a loss or gradient is NaN or infinite, and its update was not applied;
                or a weight, after one.
        """
        means, norms = TokenMeans(), []
        learn_policy = self.method.critic is None or step > self.method.critic.warmup_steps
        for _ in range(self.config.epochs):
            for rows in self._minibatches(experience):
                norms.append(self._minibatch(experience, rows, coefficient, learn_policy, means))
        metrics = {
            "loss/surrogate": means["surrogate"],
            "loss/entropy": -coefficient * means["full" if self.bonus_is_full else "clamped"]
            if self.method.entropy
            else 0.0,
            "entropy/full": means["full"],
            "entropy/clamped": means["clamped"],
            "entropy/kept_mass": means["kept"],
            "policy/clip_fraction": means["clipped"],
            "policy/kl_old": means["kl"],
            "grad/norm": sum(norms) / len(norms),
        }
        if self.critic is not None:
            metrics["loss/value"] = means["value"]
        return metrics

    def _minibatches(self, experience: Experience) -> Iterator[Tensor]:
        rows = torch.arange(experience.rollouts.response_ids.shape[0])
        yield from rows.chunk(self.config.minibatches)

    def _micro_batches(self, experience: Experience, rows: Tensor) -> list[Tensor]:
        """Rows by length, cut to the token budget, so that padding and memory stay small."""
        budget = self.config.micro_batch_tokens
        if budget is None:
            return [rows]
        masks = experience.rollouts.prompt_mask, experience.rollouts.response_mask
        lengths = torch.stack([mask.sum(dim=1) for mask in masks], dim=1).cpu()[rows]
        order = torch.argsort(lengths.sum(dim=1), stable=True)
        batches: list[list[int]] = []
        widest = torch.zeros(2, dtype=lengths.dtype)
        for row, size in zip(rows[order].tolist(), lengths[order], strict=True):
            wider = torch.maximum(widest, size)
            if batches and int(wider.sum()) * (len(batches[-1]) + 1) <= budget:
                batches[-1].append(row)
                widest = wider
            else:
                batches.append([row])
                widest = size
        return [torch.tensor(batch) for batch in batches]

    def _minibatch(
        self,
        experience: Experience,
        rows: Tensor,
        coefficient: float,
        learn_policy: bool,
        means: TokenMeans,
    ) -> float:
        """One optimiser step; returns the gradient's norm before clipping."""
        tokens = max(int(experience.rollouts.response_mask[rows].sum()), 1)
        self.optimizer.zero_grad(set_to_none=True)
        if self.critic_optimizer:
            self.critic_optimizer.zero_grad(set_to_none=True)
        for part in self._micro_batches(experience, rows):
            loss = self._loss(experience, part, coefficient, learn_policy, means) / tokens
            if not torch.isfinite(loss):
                self._refuse(f"the loss is {loss.item()}", part)
            loss.backward()
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.grad_clip)
        if not torch.isfinite(norm):
            self._refuse(f"the gradient's norm is {norm.item()}", rows)
        if self.critic is not None:
            critic_norm = nn.utils.clip_grad_norm_(self.critic.parameters(), self.config.grad_clip)
            if not torch.isfinite(critic_norm):
                self._refuse(f"the critic's gradient norm is {critic_norm.item()}", rows)
        if learn_policy:
            self.optimizer.step()
        if self.critic_optimizer is not None:
            self.critic_optimizer.step()
        if not torch.isfinite(nn.utils.get_total_norm(self._weights().values())):
            self._refuse("a weight is not finite after the update", rows)
        return float(norm)

    def _weights(self) -> dict[str, Tensor]:
        """All trained weights, the critic's under `critic.`."""
        named: dict[str, Tensor] = dict(self.policy.named_parameters())
        if self.critic is not None:
            named |= {f"critic.{name}": value for name, value in self.critic.named_parameters()}
        return named

    def _refuse(self, message: str, rows: Tensor) -> NoReturn:
        """Raise the error, with the weights and gradients that are not finite."""
        weights = self._weights()
        grads = {f"{n} (gradient)": w.grad for n, w in weights.items() if w.grad is not None}
        counts = {n: int((~v.isfinite()).sum()) for n, v in (weights | grads).items()}
        raise NonFiniteError(message, rows.tolist(), {n: c for n, c in counts.items() if c})

    def _loss(
        self,
        experience: Experience,
        rows: Tensor,
        coefficient: float,
        learn_policy: bool,
        means: TokenMeans,
    ) -> Tensor:
        """Sum over the tokens of some rows: surrogate - lambda * entropy + value loss."""
        part = select(experience.rollouts, rows)
        mask = part.response_mask
        width = mask.shape[1]
        old = part.logprobs[mask]
        advantages = experience.estimate.advantages[rows, :width][mask]
        half = self.config.dtype == "bfloat16"
        autocast = torch.autocast(mask.device.type, torch.bfloat16) if half else nullcontext()
        head = self.policy.get_output_embeddings()
        with autocast, torch.set_grad_enabled(learn_policy):
            hidden = response_hidden(self.policy.get_decoder(), part)
            # Keyed to the hidden states, so that bf16 training multiplies in bf16 here as well.
            stats = token_statistics(
                hidden,
                head.weight.to(hidden.dtype),
                part.response_ids[mask],
                temperature=self.temperature,
                space=self.space,
                bias=head.bias,
            )
            result = surrogate_loss(self.method.surrogate, stats.logprob, old, advantages)
            loss = result.loss.sum()
            if self.method.entropy is not None:
                bonus = stats.entropy if self.bonus_is_full else stats.clamped_entropy
                loss = loss - coefficient * bonus.sum()
        change = (stats.logprob - old).detach()
        recorded = {
            "surrogate": result.loss,
            "full": stats.entropy,
            "clamped": stats.clamped_entropy,
            "kept": stats.kept_mass,
            "clipped": result.clipped,
            "kl": change.exp() - 1 - change,
        }
        if self.critic is not None and self.method.critic is not None:
            assert experience.values is not None
            assert experience.estimate.returns is not None
            with autocast:
                values = self.critic(part)
            error = value_loss(
                values.float(),
                experience.values[rows, :width][mask],
                experience.estimate.returns[rows, :width][mask],
                self.method.critic.value_clip,
            )
            recorded["value"] = error
            loss = loss.detach() + error.sum() if not learn_policy else loss + error.sum()
        means.add(int(mask.sum()), **recorded)
        return loss


def measured_space(method: Method, config: Trainer) -> Space:
    """The token space of `entropy/clamped`: the method's own, else the setting's."""
    if method.entropy is None or isinstance(method.entropy.space, FullSpace):
        return config.measured_space
    return method.entropy.space
