"""Choosing tokens: exact probabilities, plain references for the filters, one number a row."""

import pytest
import torch

from aent.rollout.engine import Sampling
from aent.rollout.sampling import choose, filtered


def _plain_filter(probabilities, top_k, top_p):
    """The textbook: sort, keep k, renormalise, keep the smallest set that reaches top_p."""
    order = sorted(range(len(probabilities)), key=lambda i: (-probabilities[i], i))
    order = order[: top_k or len(order)]
    total = sum(probabilities[i] for i in order)
    kept, mass = {}, 0.0
    for i in order:
        if mass >= top_p * total:
            break
        kept[i] = probabilities[i]
        mass += probabilities[i]
    return {i: p / sum(kept.values()) for i, p in kept.items()}


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(None, 1.0), (3, 1.0), (None, 0.7), (4, 0.8), (1, 0.5), (50, 0.95)]
)
def test_frequencies_are_the_filtered_probabilities(top_k, top_p):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, generator=generator) * 1.5
    draws = 40_000
    sampling = Sampling(samples=1, max_tokens=1, temperature=0.8, top_p=top_p, top_k=top_k)
    uniform = torch.rand(draws, generator=generator, dtype=torch.float64)
    tokens, logprobs = choose(logits.expand(draws, -1).clone(), uniform, sampling)
    probabilities = (logits.double() / 0.8).softmax(0)
    expected = _plain_filter(probabilities.tolist(), top_k, top_p)
    counts = torch.bincount(tokens, minlength=7).tolist()
    assert {i for i, count in enumerate(counts) if count} == set(expected)
    chi_square = sum((counts[i] - draws * p) ** 2 / (draws * p) for i, p in expected.items())
    assert chi_square < 22.5  # 99.9% point of 6 degrees of freedom
    torch.testing.assert_close(logprobs.double(), probabilities.log()[tokens], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [33, 4096, 5003])
def test_top_k_of_a_large_vocabulary(size):
    masses = torch.rand(5, size, generator=torch.Generator().manual_seed(1))
    tokens, kept = filtered(masses, 20, 1.0)
    expected = masses.topk(20, dim=1)
    assert torch.equal(kept, expected.values)
    assert torch.equal(masses.gather(1, tokens), kept)


def test_extremes_of_the_uniform_number():
    logits = torch.full((4, 10), -1e30)
    logits[:, 3] = logits[:, 7] = 0.0
    uniform = torch.tensor([0.0, 0.4999999, 0.5000001, 1 - 1e-16], dtype=torch.float64)
    tokens, logprobs = choose(logits, uniform, Sampling(samples=1, max_tokens=1))
    assert tokens.tolist() == [3, 3, 7, 7]
    torch.testing.assert_close(logprobs, torch.full((4,), 0.5).log())


def test_a_row_does_not_depend_on_its_neighbours():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(64, 500, generator=generator)
    uniform = torch.rand(64, generator=generator, dtype=torch.float64)
    sampling = Sampling(samples=1, max_tokens=1)
    together, _ = choose(logits.clone(), uniform, sampling)
    alone = [choose(logits[i : i + 1].clone(), uniform[i : i + 1], sampling)[0] for i in range(64)]
    assert together.tolist() == torch.cat(alone).tolist()
