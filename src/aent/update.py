"""The update: minibatch steps on one step's experience.

The loss of a minibatch is the token mean of the surrogate minus lambda times the token mean of the
entropy over the method's token space, both from one forward pass. Several processes have a share
of each minibatch; its tokens, its gradient and what is recorded are those of all shares.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from aent.batches import cut_to, micro_batches
from aent.config import Method
from aent.config.method import Space
from aent.config.setting import Trainer
from aent.critic import ValueModel, value_loss
from aent.entropy.statistics import TokenStatistics
from aent.experience import Experience
from aent.failure import NonFiniteError
from aent.forward import TokenPolicy, select
from aent.importance import Importance, importance
from aent.processes import Processes
from aent.rollout.engine import Rollouts
from aent.surrogates import surrogate_loss

UNTRAINED_PASS = 8
"""Micro-batches' worth of tokens in a forward pass without gradients."""


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

    def over(self, processes: Processes) -> TokenMeans:
        """Means over the tokens of all processes."""
        local = torch.tensor([self.tokens, *self.sums.values()], dtype=torch.float64)
        tokens, *sums = processes.sum(local.to(processes.device)).tolist()
        return TokenMeans(dict(zip(self.sums, sums, strict=True)), int(tokens))

    def __getitem__(self, name: str) -> float:
        return self.sums[name] / self.tokens


@dataclass(frozen=True)
class Minibatch:
    """One optimiser step's share of the rows."""

    pieces: list[Tensor]
    """Rows of each forward pass; as many pieces in all processes."""
    tokens: int
    """Response tokens of all processes."""


class Updater:
    """Applies one step's experience to the policy, and to the critic where there is one."""

    def __init__(
        self,
        policy: PreTrainedModel,
        method: Method,
        config: Trainer,
        temperature: float,
        critic: ValueModel | None = None,
        processes: Processes | None = None,
    ):
        """Prepare the modules for the processes, then make the optimisers.

        Args:
            policy: the model to train.
            method: surrogate, entropy term and critic options.
            config: trainer options.
            temperature: divides the logits, as in sampling.
            critic: the value network, with methods that have one.
            processes: those that share the work; this one alone when absent.
        """
        self.policy, self.method, self.config = policy, method, config
        self.processes = processes or Processes(config.device)
        self.space = measured_space(method, config)
        self.token_policy = self.processes.prepare(
            TokenPolicy(policy, self.space, temperature, config.compile)
        )
        self.critic = critic
        self.value_model = self.processes.prepare(critic) if critic else None
        self.optimizer = self._adamw(policy, config.learning_rate)
        self.critic_optimizer = (
            self._adamw(critic, method.critic.learning_rate) if critic and method.critic else None
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

    def train(self, mode: bool) -> None:
        """Switch dropout and gradient checkpointing of policy and critic: on for updates alone."""
        self.policy.train(mode)
        if self.critic is not None:
            self.critic.train(mode)

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
        local, norms = TokenMeans(), []
        learn_policy = self.method.critic is None or step > self.method.critic.warmup_steps
        minibatches = self._minibatches(experience.rollouts)
        for _ in range(self.config.epochs):
            for minibatch in minibatches:
                norm = self._minibatch(experience, minibatch, coefficient, learn_policy, local)
                norms.append(norm)
        means = local.over(self.processes)
        term = self.method.entropy
        entropies = {"entropy/full": means["full"], "entropy/clamped": means["clamped"]}
        metrics = {
            "loss/surrogate": means["surrogate"],
            "loss/entropy": -coefficient * entropies[term.metric] if term else 0.0,
            **entropies,
            "entropy/kept_mass": means["kept"],
            "policy/clip_fraction": means["clipped"],
            "policy/kl_old": means["kl"],
            "grad/norm": sum(norms) / len(norms),
        }
        if self.critic is not None:
            metrics["loss/value"] = means["value"]
        return metrics

    @torch.no_grad()
    def values(self, rollouts: Rollouts) -> Tensor:
        """The critic's values [B, R], 0 where masked; each process at its own pace."""
        assert self.value_model is not None
        mask = rollouts.response_mask
        values = torch.zeros(mask.shape, device=mask.device)
        with self.processes.whole(self.value_model) as critic:
            for rows in self._passes(rollouts):
                part = select(rollouts, rows)
                found = torch.zeros(part.response_mask.shape, device=mask.device)
                found[part.response_mask] = critic(part).float()
                values[rows, : found.shape[1]] = found
        return values

    @torch.no_grad()
    def weigh(self, rollouts: Rollouts, cap: float) -> tuple[Rollouts, Importance]:
        """The policy's own log-probabilities in place of the engine's, and what their ratios weigh.

        Args:
            rollouts: B rows with the engine's log-probabilities.
            cap: largest weight.
        """
        mask = rollouts.response_mask
        own = torch.zeros(mask.shape, device=mask.device)
        with self.processes.whole(self.token_policy) as policy:
            for rows in self._passes(rollouts):
                part = select(rollouts, rows)
                found = torch.zeros(part.response_mask.shape, device=mask.device)
                with self._precision():
                    found[part.response_mask] = policy(part).logprob.float()
                own[rows, : found.shape[1]] = found
        return replace(rollouts, logprobs=own), importance(own, rollouts.logprobs, mask, cap)

    def _precision(self) -> AbstractContextManager[object]:
        """Around forward passes."""
        if self.config.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.processes.device.type, torch.bfloat16)

    def _passes(self, rollouts: Rollouts) -> list[Tensor]:
        """Rows of each forward pass without gradients, which takes less memory than one with."""
        rows = torch.arange(rollouts.response_ids.shape[0])
        budget = self.config.micro_batch_tokens
        width = rollouts.prompt_ids.shape[1] + rollouts.response_ids.shape[1]
        if budget is None or len(rows) * width <= UNTRAINED_PASS * budget:
            return [rows]
        return micro_batches(rollouts, rows, UNTRAINED_PASS * budget)

    def _minibatches(self, rollouts: Rollouts) -> list[Minibatch]:
        rows = torch.arange(rollouts.response_ids.shape[0]).chunk(self.config.minibatches)
        pieces = [micro_batches(rollouts, part, self.config.micro_batch_tokens) for part in rows]
        tokens = [int(rollouts.response_mask[part].sum()) for part in rows]
        found = torch.tensor([[list(map(len, pieces)), tokens]], device=self.processes.device)
        everywhere = self.processes.gather(found)
        counts = everywhere[:, 0].amax(dim=0).tolist()
        totals = everywhere[:, 1].sum(dim=0).tolist()
        return [
            Minibatch(cut_to(part, count), max(total, 1))
            for part, count, total in zip(pieces, counts, totals, strict=True)
        ]

    def _minibatch(
        self,
        experience: Experience,
        minibatch: Minibatch,
        coefficient: float,
        learn_policy: bool,
        means: TokenMeans,
    ) -> float:
        """One optimiser step; returns the gradient's norm before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.critic_optimizer:
            self.critic_optimizer.zero_grad(set_to_none=True)
        # Engines take the mean of the processes' gradients; the loss is the sum of their losses.
        tokens = minibatch.tokens / self.processes.count
        losses = []
        for number, part in enumerate(minibatch.pieces, 1):
            with self._exchanging(number == len(minibatch.pieces)):
                loss = self._loss(experience, part, coefficient, learn_policy, means) / tokens
                loss.backward()
            losses.append(loss.detach())
        self._check_losses(torch.stack(losses), minibatch.pieces)
        rows = torch.cat(minibatch.pieces)
        norm = self._clip(self.policy, "gradient's norm", rows)
        if self.critic is not None:
            self._clip(self.critic, "critic's gradient norm", rows)
        if learn_policy:
            self.optimizer.step()
        if self.critic_optimizer is not None:
            self.critic_optimizer.step()
        if not torch.isfinite(self.processes.norm(list(self._weights().values()))):
            self._refuse("a weight is not finite after the update", rows)
        return norm

    @contextmanager
    def _exchanging(self, last: bool) -> Iterator[None]:
        """Around the forward and backward pass of a piece, the last of its minibatch or not."""
        with ExitStack() as stack:
            for module in (self.token_policy, self.value_model):
                if module is not None:
                    stack.enter_context(self.processes.accumulating(module, last))
            yield

    def _check_losses(self, losses: Tensor, pieces: list[Tensor]) -> None:
        """All processes refuse together what is not finite in one of them."""
        broken = (~losses.isfinite()).nonzero().flatten().tolist()
        if self.processes.any(bool(broken)):
            if not broken:
                self._refuse("the loss of another process is not finite", torch.cat(pieces))
            self._refuse(f"the loss is {losses[broken[0]].item()}", pieces[broken[0]])

    def _clip(self, module: nn.Module, what: str, rows: Tensor) -> float:
        """Clip a module's gradient; gives its norm before."""
        norm = self.processes.clip_gradient(module, self.config.grad_clip)
        if not torch.isfinite(norm):
            self._refuse(f"the {what} is {norm.item()}", rows)
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
        local = {n: self.processes.local(value) for n, value in (weights | grads).items()}
        counts = {n: int((~value.isfinite()).sum()) for n, value in local.items()}
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
        with self._precision(), torch.set_grad_enabled(learn_policy):
            stats: TokenStatistics = self.token_policy(part)
            result = surrogate_loss(self.method.surrogate, stats.logprob, old, advantages)
            surrogate = result.loss
            if experience.importance is not None:
                surrogate = surrogate * experience.importance.weights[rows, :width][mask]
            loss = surrogate.sum()
            if (term := self.method.entropy) is not None:
                bonus = stats.entropy if term.full else stats.clamped_entropy
                loss = loss - coefficient * bonus.sum()
        change = (stats.logprob - old).detach()
        recorded = {
            "surrogate": surrogate,
            "full": stats.entropy,
            "clamped": stats.clamped_entropy,
            "kept": stats.kept_mass,
            "clipped": result.clipped,
            "kl": change.exp() - 1 - change,
        }
        if self.value_model is not None and self.method.critic is not None:
            assert experience.values is not None
            assert experience.estimate.returns is not None
            with self._precision():
                values = self.value_model(part)
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
    if method.entropy is None or method.entropy.full:
        return config.measured_space
    return method.entropy.space
