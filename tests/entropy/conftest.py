"""The plain definition of every statistic in float64 under autograd, and the comparison with it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from aent.config.method import FullSpace, MinP, Nucleus, RankFraction, TopK
from aent.entropy import token_statistics

SPACES = [
    FullSpace(),
    RankFraction(drop=0.0),
    RankFraction(drop=0.25),
    RankFraction(drop=0.333),
    RankFraction(drop=0.9999),
    TopK(k=1),
    TopK(k=20),
    Nucleus(mass=0.9037),
    Nucleus(mass=1.0),
    MinP(epsilon=0.05),
]


def kept_weights(logits, space):
    """Weight of each token in the space: keep the most likely, share ties equally."""
    size = logits.shape[1]
    weights = torch.zeros_like(logits)
    for row, z in enumerate(logits.detach()):
        p = torch.softmax(z, 0)
        if isinstance(space, FullSpace):
            kept = size
        elif isinstance(space, RankFraction):
            kept = size - int(space.drop * size)
        elif isinstance(space, TopK):
            kept = min(space.k, size)
        elif isinstance(space, Nucleus):
            reached = torch.sort(p, descending=True).values.cumsum(0)
            kept = size if space.mass == 1.0 else int((reached < space.mass).sum()) + 1
        else:
            kept = int((p >= space.epsilon * p.max()).sum())
        threshold = torch.sort(z, descending=True).values[kept - 1]
        above, tied = z > threshold, z == threshold
        weights[row] = above + tied * (kept - above.sum()) / tied.sum()
    return weights


def reference(logits, targets, space):
    """Statistics of rows of logits, every intermediate of shape [N, V]."""
    weights = kept_weights(logits, space)
    logp = torch.log_softmax(logits, 1)
    p = logp.exp()
    finite = logp.clamp(min=-1e30)  # 0 * -inf would be NaN
    entropy = -(p * finite).sum(1)
    kept = (p * weights).sum(1)
    renormalised = weights * p / kept[:, None]
    clamped = -(renormalised * (finite - kept.log()[:, None])).sum(1)
    return logp.gather(1, targets[:, None])[:, 0], entropy, clamped, kept


def make(count, size, width, scale=1.0, seed=0):
    """Random hidden states, weight whose logits have that standard deviation, and targets."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, width, generator=generator)
    weight = torch.randn(size, width, generator=generator) * scale / math.sqrt(width)
    return hidden, weight, torch.randint(size, (count,), generator=generator)


def exact(inputs):
    """Inputs whose products carry no rounding error: the same logits in every precision."""
    hidden, weight, targets = inputs
    return hidden.mul(8).round() / 8, weight.mul(8).round() / 8, targets


def compare(inputs, space, *, values=1e-5, gradients=1e-4, temperature=1.0, bias=None, **options):
    """Compare values and the gradients of a random mix of all outputs.

    Tolerances are relative; that of a gradient to the largest element of its tensor. Values that
    are differences of numbers near 1 may also be off by float32's resolution there.
    """
    hidden, weight, targets = inputs
    leaves = [t.detach().requires_grad_() for t in (hidden, weight)]
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    if bias is not None:
        leaves.append(bias.detach().requires_grad_())
        exact.append(bias.detach().double().requires_grad_())
    got = token_statistics(
        *leaves[:2],
        targets,
        space=space,
        temperature=temperature,
        bias=None if bias is None else leaves[2],
        **options,
    )
    logits = exact[0] @ exact[1].T
    if bias is not None:
        logits = logits + exact[2]
    want = reference(logits / temperature, targets, space)
    mix = torch.randn(4, len(targets), generator=torch.Generator().manual_seed(1)).double()
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g.double(), w.detach(), rtol=values, atol=2e-6)
    sum((m * g).sum() for m, g in zip(mix.to(got[0].dtype), got, strict=True)).backward()
    sum((m * w).sum() for m, w in zip(mix, want, strict=True)).backward()
    for leaf, double in zip(leaves, exact, strict=True):
        assert leaf.grad.dtype == leaf.dtype
        error = (leaf.grad.double() - double.grad).abs().max()
        assert error <= gradients * double.grad.abs().max().clamp(min=1e-6)


@pytest.fixture(scope="session")
def plain():
    """The reference, the comparison with it, and inputs."""
    return SimpleNamespace(
        spaces=SPACES,
        weights=kept_weights,
        reference=reference,
        make=make,
        exact=exact,
        compare=compare,
    )


def pytest_generate_tests(metafunc):
    """Give a test that asks for `space` every token space."""
    if "space" in metafunc.fixturenames:
        metafunc.parametrize("space", SPACES, ids=str)
