"""The supervised warm start of a fresh model: imitation of worked, cut and direct solutions.

Differs from the textbook in what it imitates: the demonstrations are a mixture in which only some
work the problem to the end, so that reinforcement learning has a habit to change. The loss falls on
completions only, and only their positions reach the language-model head.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aent.boxed import last_boxed
from aent.config.model import Demonstrations, ScratchModel, WarmStart
from aent.config.setting import Prompt
from aent.entropy.statistics import token_statistics
from aent.forward import response_hidden
from aent.models import build_tokenizer, create_model, encode_prompt, eos_ids, save_model
from aent.problems.record import Problem, ProblemError
from aent.problems.synthetic import direct_solution, first_words, partial_solutions, vocabulary
from aent.rollout.engine import Sampling
from aent.rollout.transformers import TransformersEngine

logger = logging.getLogger("aent.pretrain")

_LOG_EVERY_S = 5.0
_HELD_OUT = 600
_MAX_TOKENS = 32
_WINDOW = 8
Pair = tuple[list[int], list[int]]
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Example:
    """A problem's prompt and its demonstrations, as tokens."""

    prompt: list[int]
    full: list[int]
    direct: list[int]
    partial: list[list[int]]
    """Cut after 0, 1, ... steps."""


def warm_start(
    config: ScratchModel, problems: list[Problem], output: Path, progress: Progress | None = None
) -> dict[str, float]:
    """Create a model, train it on solutions of the problems, measure it, and save it.

    The last tenth of the problems, 600 at most, is held out and only measured on. Equal arguments
    give equal weights on the same machine with the same number of threads.

    Args:
        config: the model's shape and its warm start.
        problems: synthetic problems with solutions.
        output: model directory to write.
        progress: called after each step with the step, the number of steps and the loss.

    Returns:
        loss (last 10% of the steps, nats a token), accuracy/{sampled,greedy} with /{family}-{tier}
        behind for a part, entropy (nats a token, of responses sampled at temperature 1),
        length_mean, truncated_fraction, parameters, seconds (training only).

    Raises:
        ProblemError: a problem without a solution, or with words the tokenizer does not know.
    """
    warm = config.warm_start
    threads = torch.get_num_threads()
    torch.set_num_threads(warm.threads)
    try:
        model, tokenizer = create_model(config), build_tokenizer(config.vocabulary)
        held_out = min(_HELD_OUT, len(problems) // 10)
        seen, unseen = problems[: len(problems) - held_out], problems[len(problems) - held_out :]
        examples = encode(tokenizer, seen, config.positions)
        start = time.perf_counter()
        loss = train(model, examples, warm, progress)
        metrics = {
            "loss": loss,
            "seconds": time.perf_counter() - start,
            "parameters": float(sum(weight.numel() for weight in model.parameters())),
        }
        if unseen:
            metrics |= measure(model, tokenizer, unseen, warm.seed)
    finally:
        torch.set_num_threads(threads)
    save_model(model, tokenizer, output)
    return metrics


def encode(
    tokenizer: PreTrainedTokenizerBase, problems: list[Problem], positions: int
) -> list[Example]:
    """Prompts and their three demonstrations as tokens; demonstrations end with EOS.

    Raises:
        ProblemError: no problems, no solution, unknown words, or more tokens than positions.
    """
    if not problems:
        raise ProblemError("warm start: no problems to imitate")
    known = {*first_words(), *vocabulary()}
    examples = []
    for problem in problems:
        if problem.solution is None:
            raise ProblemError(f"warm start: problem {problem.id} has no solution to imitate")
        if unknown := {*problem.problem.split(), *problem.solution.split()} - known:
            raise ProblemError(
                f"warm start: problem {problem.id} has words outside the vocabulary of the "
                f"synthetic problems: {sorted(unknown)[:5]}"
            )
        prompt = encode_prompt(tokenizer, problem.problem, Prompt())
        solution = problem.solution
        texts = [solution, direct_solution(solution), *partial_solutions(solution)]
        # A completion goes on behind the prompt, hence the space.
        texts = [f" {text}{tokenizer.eos_token}" for text in texts]
        full, direct, *partial = tokenizer(texts)["input_ids"]
        if len(prompt) + len(full) > positions:
            raise ProblemError(
                f"warm start: problem {problem.id} takes {len(prompt) + len(full)} tokens, "
                f"the model has {positions} positions"
            )
        examples.append(Example(prompt, full, direct, partial))
    return examples


def train(
    model: PreTrainedModel,
    examples: list[Example],
    warm: WarmStart,
    progress: Progress | None = None,
) -> float:
    """Minimise the cross-entropy of the demonstrations; returns the mean loss at the end."""
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=warm.learning_rate, betas=warm.betas, weight_decay=0.0, fused=True
    )
    model.train()
    stream = batches(examples, warm)
    losses: list[float] = []
    start = last = time.perf_counter()
    for step in range(1, warm.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = warm.learning_rate * rate_factor(step, warm)
        loss = completion_loss(model, next(stream))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), warm.grad_clip)
        optimiser.step()
        losses.append(loss.item())
        if progress:
            progress(step, warm.steps, losses[-1])
        now = time.perf_counter()
        if now - last >= _LOG_EVERY_S or step == warm.steps:
            left = (now - start) / step * (warm.steps - step)
            recent = losses[-50:]
            logger.info(
                "warm start: step %d of %d, loss %.3f, %.0f s left",
                step,
                warm.steps,
                sum(recent) / len(recent),
                left,
            )
            last = now
    model.eval()
    end = losses[-math.ceil(warm.steps / 10) :]
    return sum(end) / len(end)


def rate_factor(step: int, warm: WarmStart) -> float:
    """Share of the peak learning rate at a step, from 1: linear rise, plateau, linear fall."""
    rise = step / warm.warmup_steps if warm.warmup_steps else 1.0
    decay = warm.decay_fraction * warm.steps
    fall = (warm.steps - step + 1) / decay if decay else 1.0
    return min(1.0, rise, fall)


def completion_loss(model: PreTrainedModel, batch: list[Pair]) -> Tensor:
    """Mean cross-entropy a completion token of (prompt, completion) pairs.

    Rows are padded on the right, where causal attention needs no mask.
    """
    rows = [prompt + completion for prompt, completion in batch]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    predicting = torch.zeros(ids.shape, dtype=torch.bool)
    for n, (prompt, completion) in enumerate(batch):
        predicting[n, len(prompt) - 1 : len(prompt) + len(completion) - 1] = True
    output = model.get_decoder()(input_ids=ids[:, :-1], use_cache=False)
    hidden = output.last_hidden_state[predicting[:, :-1]]
    targets = ids[:, 1:][predicting[:, :-1]]
    return nn.functional.cross_entropy(model.get_output_embeddings()(hidden), targets)


def batches(examples: list[Example], warm: WarmStart) -> Iterator[list[Pair]]:
    """The batches of all steps, prompts with demonstrations, decided by the warm start's seed.

    Each pass takes all examples in a fresh order and draws what is shown of each. Batches hold
    rows of similar length, which saves a third of the padding.
    """
    rng = random.Random(warm.seed)
    mixed_from = round(warm.demonstrations.full_first * warm.steps)
    order: list[Example] = []
    done = 0
    while done < warm.steps:
        pairs = []
        for n in range(_WINDOW * warm.batch):
            if not order:
                order = rng.sample(examples, len(examples))
            example = order.pop()
            mixed = done + n // warm.batch >= mixed_from
            shown = _demonstration(example, rng, warm.demonstrations) if mixed else example.full
            pairs.append((example.prompt, shown))
        pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        cut = [pairs[n : n + warm.batch] for n in range(0, len(pairs), warm.batch)]
        yield from rng.sample(cut, len(cut))
        done += _WINDOW


def _demonstration(example: Example, rng: random.Random, shares: Demonstrations) -> list[int]:
    """One of the example's demonstrations."""
    draw = rng.random()
    if draw < shares.full:
        return example.full
    return rng.choice(example.partial) if draw < shares.full + shares.partial else example.direct


@torch.no_grad()
def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: list[Problem], seed: int
) -> dict[str, float]:
    """Accuracy, sampled at temperature 1 and greedy, and entropy of the sampled responses."""
    engine = TransformersEngine(model, tokenizer.pad_token_id, eos_ids(model, tokenizer))
    prompts = [encode_prompt(tokenizer, problem.problem, Prompt()) for problem in problems]
    metrics: dict[str, float] = {}
    # One likely token to choose from is greedy decoding.
    for mode, top_k in (("greedy", 1), ("sampled", None)):
        generator = torch.Generator().manual_seed(seed)
        sampling = Sampling(samples=1, max_tokens=_MAX_TOKENS, top_k=top_k)
        rollouts = engine.generate(prompts, sampling, generator)
        texts = tokenizer.batch_decode(rollouts.response_ids, skip_special_tokens=True)
        parts: dict[str, list[bool]] = {"": []}
        for problem, text in zip(problems, texts, strict=True):
            correct = last_boxed(text) == problem.answer
            parts[""].append(correct)
            parts.setdefault(f"/{problem.id.rsplit('-', 1)[0]}", []).append(correct)
        for part, hits in sorted(parts.items()):
            metrics[f"accuracy/{mode}{part}"] = sum(hits) / len(hits)
    statistics = token_statistics(
        response_hidden(model.get_decoder(), rollouts),
        model.get_output_embeddings().weight,
        rollouts.response_ids[rollouts.response_mask],
    )
    metrics["entropy"] = float(statistics.entropy.mean())
    metrics["length_mean"] = float(rollouts.response_mask.sum(dim=1).float().mean())
    metrics["truncated_fraction"] = float(rollouts.truncated.float().mean())
    return metrics
