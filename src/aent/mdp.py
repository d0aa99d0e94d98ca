"""The synthetic decision problem of Figure 1 (arXiv 2509.03493): when does an entropy bonus help?

One state, very many actions, a tabular softmax policy that starts at a peaked prior. A few actions
are optimal (reward 1), some that the prior prefers are mediocre decoys (reward 0.5), all others
earn nothing. Exact gradient ascent on `J(pi) + lambda * H` is run without a bonus, with the entropy
of the whole policy, and with the entropy clamped to the most likely actions. The decoys and the
prior are ours, since the exact problem of the paper is not known to us: lambda and the clamp vary.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aent.config.experiment import Mdp

Array = NDArray[np.float64]
Kept = NDArray[np.intp] | None

COLUMNS = ["optimal", "regulariser", "keep", "coefficient", "seed", "step", "value"]
DECOY_REWARD = 0.5


@dataclass(frozen=True)
class Bandit:
    """A one-state problem: prior logits and the actions that earn something.

    Attributes:
        logits: prior logits, shape [actions], most likely first.
        rewarded: indices of the rewarded actions, shape [rewarded].
        rewards: their rewards, shape [rewarded]; every other action earns 0.
    """

    logits: Array
    rewarded: NDArray[np.intp]
    rewards: Array


@dataclass(frozen=True)
class Ascent:
    """One gradient ascent: which problem, regularised how.

    Attributes:
        optimal: number of optimal actions.
        regulariser: `none`, `entropy` or `clamped`.
        keep: fraction of the actions that the clamp keeps; None unless clamped.
        coefficient: lambda; 0 for `none`.
        seed: seed of the problem.
    """

    optimal: int
    regulariser: str
    keep: float | None
    coefficient: float
    seed: int


def build_bandit(config: Mdp, optimal: int, seed: int) -> Bandit:
    """The problem with `optimal` optimal actions; problems of one seed share prior and places.

    The decoys hold the first prior ranks, the optimal actions lie at `optimal_ranks` (from 0) of
    the actions left. The optimal actions of a smaller problem are among those of a larger one.
    """
    generator = np.random.default_rng(seed)
    prior = np.sort(generator.normal(0.0, config.prior_std, config.actions))[::-1]
    low, high = config.optimal_ranks
    ranks = low + generator.permutation(high - low + 1)[:optimal]
    decoys = np.arange(config.decoys)
    return Bandit(
        logits=prior.copy(),
        rewarded=np.concatenate([decoys, config.decoys + ranks]),
        rewards=np.concatenate([np.full(config.decoys, DECOY_REWARD), np.ones(optimal)]),
    )


def expected_reward(bandit: Bandit, logits: Array) -> float:
    """J(pi), the policy's expected reward."""
    weights = np.exp(logits - logits.max())
    return float(weights[bandit.rewarded] @ bandit.rewards / weights.sum())


def gradient(
    bandit: Bandit, logits: Array, coefficient: float, kept: Kept, scratch: Array | None = None
) -> Array:
    """Exact gradient of `J + coefficient * H` in the logits.

    H is the entropy of the policy renormalised over the `kept` actions (arXiv 2509.03493, clamped
    entropy); no gradient flows through their choice. With q the renormalised policy,
    dJ/dz_a = pi_a (r_a - J) and dH/dz_a = -q_a (log q_a + H) on the kept actions, 0 elsewhere.

    Args:
        bandit: the problem.
        logits: shape [actions]; their maximum must be near 0.
        coefficient: lambda; 0 leaves the entropy out.
        kept: indices of the kept actions, or None for all.
        scratch: memory to work in, shape [4, actions]; fresh memory when absent.

    Returns:
        The gradient, shape [actions], in memory of `scratch`.
    """
    if scratch is None:
        scratch = np.empty((4, logits.size))
    weights, direction, bonus, kept_weights = scratch
    np.exp(logits, out=weights)
    total = weights.sum()
    earned = weights[bandit.rewarded] * bandit.rewards / total
    np.multiply(weights, -earned.sum() / total, out=direction)
    direction[bandit.rewarded] += earned
    if not coefficient:
        return direction
    if kept is None:
        kept_weights = weights
    else:  # mode="clip" writes to `out` without a buffer; the indices are valid
        kept_weights = weights.take(kept, out=kept_weights[: kept.size], mode="clip")
        logits = logits.take(kept, out=bonus[: kept.size], mode="clip")
    # -q (log q + H) = q (mean - z) with mean = sum q z: the normalisers of log q and H cancel.
    kept_total = kept_weights.sum()
    mean = np.einsum("a,a->", kept_weights, logits) / kept_total
    bonus = np.subtract(mean, logits, out=bonus[: logits.size])
    bonus *= kept_weights
    bonus *= coefficient / kept_total
    if kept is None:
        direction += bonus
    else:
        direction[kept] += bonus
    return direction


def top_threshold(logits: Array, count: int, guess: float | None = None) -> float:
    """A value that exactly the `count` largest logits reach (more where logits tie at it).

    Args:
        logits: shape [actions].
        count: how many to keep, from 1 to the number of actions.
        guess: the threshold of similar logits; it spares sorting them all.
    """
    if guess is not None:
        if np.count_nonzero(logits >= guess) == count:
            return guess
        width = 0.05  # in nats: some hundred logits to look at, more than a step moves
        near = logits[np.abs(logits - guess) < width]
        wanted = count - np.count_nonzero(logits >= guess + width)
        if 1 <= wanted <= near.size:
            return float(np.partition(near, near.size - wanted)[near.size - wanted])
    return float(np.partition(logits, logits.size - count)[logits.size - count])


def recorded_steps(steps: int, points: int = 60) -> list[int]:
    """About `points` steps from 0 to `steps`, dense at first, both ends included."""
    spaced = np.geomspace(1, steps, points).round().astype(int)
    return [0, *sorted(set(spaced.tolist()))]


def ascend(config: Mdp, ascent: Ascent) -> list[tuple[int, float]]:
    """Run one gradient ascent.

    Returns:
        (step, expected reward after that many steps) at the recorded steps.
    """
    bandit = build_bandit(config, ascent.optimal, ascent.seed)
    logits = bandit.logits.copy()
    count = config.actions
    if ascent.keep is not None:
        count = max(1, round(ascent.keep * config.actions))
    kept: Kept = None
    threshold: float | None = None
    scratch = np.empty((4, config.actions))
    recorded = set(recorded_steps(config.steps))
    values = []
    for step in range(config.steps + 1):
        if step in recorded:
            values.append((step, expected_reward(bandit, logits)))
        top = logits.max()
        logits -= top
        if ascent.keep is not None:
            threshold = top_threshold(logits, count, None if threshold is None else threshold - top)
            kept = np.flatnonzero(logits >= threshold)
        direction = gradient(bandit, logits, ascent.coefficient, kept, scratch)
        direction *= config.learning_rate
        logits += direction
    return values


def plan(config: Mdp) -> list[Ascent]:
    """Every ascent of the figure: problems x regularisers x strengths x clamps x seeds."""
    return [
        Ascent(optimal, regulariser, keep, coefficient, seed)
        for optimal in config.optimal
        for seed in config.seeds
        for regulariser, keep, coefficient in _regularisers(config)
    ]


def simulate(config: Mdp) -> pd.DataFrame:
    """Run every ascent of the figure.

    Returns:
        Columns optimal, regulariser (`none`, `entropy`, `clamped`), keep (NaN unless clamped),
        coefficient (0 for `none`), seed, step, value (expected reward).
    """
    ascents = plan(config)
    if config.threads > 1:
        # Fresh processes: a fork would copy whatever threads the caller has.
        with ProcessPoolExecutor(config.threads, mp_context=get_context("spawn")) as pool:
            curves = list(pool.map(ascend, [config] * len(ascents), ascents))
    else:
        curves = [ascend(config, ascent) for ascent in ascents]
    rows = [
        (a.optimal, a.regulariser, a.keep, a.coefficient, a.seed, step, value)
        for a, curve in zip(ascents, curves, strict=True)
        for step, value in curve
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"keep": "float64"})


def _regularisers(config: Mdp) -> Iterator[tuple[str, float | None, float]]:
    yield "none", None, 0.0
    for coefficient in config.coefficients:
        yield "entropy", None, coefficient
        for keep in config.keep:
            yield "clamped", keep, coefficient
