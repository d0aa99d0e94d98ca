"""The fused operation against the plain definition in float64 under autograd."""

from __future__ import annotations

import math

import pytest
import torch

from aent.config.method import FullSpace, MinP, Nucleus, RankFraction, TopK
from aent.entropy import token_statistics

SPACES = [
    FullSpace(),
    RankFraction(drop=0.0),
    RankFraction(drop=0.25),
    RankFraction(drop=0.333),
    RankFraction(drop=0.999),
    TopK(k=1),
    TopK(k=20),
    Nucleus(mass=0.9),
    MinP(epsilon=0.05),
]


def kept_weights(logits, space):
    """Weight of each token in the space, from the definition: sort, keep, share ties equally."""
    rows, size = logits.shape
    weights = torch.zeros_like(logits)
    for row in range(rows):
        z = logits[row].detach()
        p = torch.softmax(z, 0)
        ordered = torch.sort(p, descending=True).values
        if isinstance(space, FullSpace):
            kept = size
        elif isinstance(space, RankFraction):
            kept = size - int(space.drop * size)
        elif isinstance(space, TopK):
            kept = min(space.k, size)
        elif isinstance(space, Nucleus):
            kept = int((ordered.cumsum(0) < space.mass).sum()) + 1
        else:
            kept = int((p >= space.epsilon * p.max()).sum())
        threshold = torch.sort(z, descending=True).values[min(kept, size) - 1]
        above, tied = z > threshold, z == threshold
        weights[row] = above + tied * (kept - above.sum()) / tied.sum()
    return weights


def reference(hidden, weight, targets, space, temperature=1.0, bias=None):
    """Plain definition, every intermediate of shape [N, V]."""
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    logits = logits / temperature
    weights = kept_weights(logits, space)
    logp = torch.log_softmax(logits, 1)
    p = logp.exp()
    safe = logp.clamp(min=-1e30)
    entropy = -(p * safe).sum(1)
    kept = (p * weights).sum(1)
    clamped = -(weights * p / kept[:, None] * (safe - kept.log()[:, None])).sum(1)
    return logp.gather(1, targets[:, None])[:, 0], entropy, clamped, kept


def compare(hidden, weight, targets, space, temperature=1.0, bias=None, seed=0, **options):
    """Compare values (1e-5) and gradients (1e-4) of a random mix of all outputs."""
    inputs = [t.detach().clone().requires_grad_() for t in (hidden, weight)]
    doubles = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    biases = (None, None) if bias is None else (bias, bias.double())
    got = token_statistics(
        *inputs, targets, space=space, temperature=temperature, bias=biases[0], **options
    )
    want = reference(*doubles, targets, space, temperature, biases[1])
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(4, len(targets), generator=generator, dtype=torch.float64)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == torch.float32
        torch.testing.assert_close(g.double(), w.detach(), rtol=1e-5, atol=2e-6)
    sum((m * g).sum() for m, g in zip(mix.float(), got, strict=True)).backward()
    sum((m * w).sum() for m, w in zip(mix, want, strict=True)).backward()
    for i, d in zip(inputs, doubles, strict=True):
        scale = d.grad.abs().max().clamp(min=1e-12)
        assert (i.grad.double() - d.grad).abs().max() <= 1e-4 * scale


def make(count, size, width, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, width, generator=generator)
    weight = torch.randn(size, width, generator=generator) * scale / math.sqrt(width)
    return hidden, weight, torch.randint(size, (count,), generator=generator)


@pytest.mark.parametrize("space", SPACES, ids=repr)
@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0], ids=["flat", "random", "peaked"])
def test_values_and_gradients(space, scale):
    compare(*make(7, 997, 16, scale), space)
