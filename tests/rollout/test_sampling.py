"""The sampler against exact probabilities and against plain filters."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from aent.rollout.engine import Sampling
from aent.rollout.sampling import choose, filtered, invert


def rule(**values) -> Sampling:
    return Sampling(samples=1, max_tokens=1, **values)


def uniforms(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plain(logits: list[float], temperature: float, top_k: int | None, top_p: float) -> list[float]:
    """Probabilities of one row by the rule's words: temperature, then top-k, then top-p."""
    weights = [2.718281828459045 ** (x / temperature) for x in logits]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])[:top_k]
    total, reached, kept = sum(weights[i] for i in order), 0.0, []
    for i in order:
        if reached >= top_p * total:
            break
        kept.append(i)
        reached += weights[i]
    return [weights[i] / reached if i in kept else 0.0 for i in range(len(weights))]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, None, 1.0),
        (0.6, None, 1.0),
        (1.0, 3, 1.0),
        (1.0, None, 0.8),
        (0.6, 4, 0.9),
        (2.0, 99, 0.5),
    ],
)
def test_frequencies_are_the_exact_probabilities(temperature, top_k, top_p):
    row = [0.3, -1.0, 2.0, 1.1, 0.0, -3.0, 1.4]
    rows = 40_000
    sampling = rule(temperature=temperature, top_k=top_k, top_p=top_p)
    tokens, logprobs = choose(torch.tensor([row] * rows), uniforms(rows), sampling)
    exact = torch.tensor(plain(row, temperature, top_k, top_p))
    counts = torch.bincount(tokens, minlength=len(row))
    possible = exact > 0
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        expected = exact[possible].double() * rows
        expected *= rows / expected.sum()
        assert chisquare(counts[possible].numpy(), expected.numpy()).pvalue > 0.01
    whole = (torch.tensor(row) / temperature).log_softmax(0)
    torch.testing.assert_close(logprobs, whole[tokens], atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [5, 64, 97, 1000, 4096])
@pytest.mark.parametrize(("top_k", "top_p"), [(None, 0.9), (20, 0.95), (7, 1.0), (1, 0.5)])
def test_filters_agree_with_a_plain_implementation(size, top_k, top_p):
    logits = torch.randn(4, size, generator=torch.Generator().manual_seed(size)) * 3
    tokens, kept = filtered(logits.softmax(1), top_k, top_p)
    shares = torch.zeros(4, size).scatter(1, tokens, kept / kept.sum(1, keepdim=True))
    exact = torch.tensor([plain(row, 1.0, top_k, top_p) for row in logits.tolist()])
    torch.testing.assert_close(shares, exact, atol=1e-5, rtol=0)
    assert torch.equal(shares > 0, exact > 0)


def test_a_nucleus_wider_than_the_guesses_is_found():
    logits = torch.zeros(2, 3000)
    logits[1, 5] = 20.0  # another row's narrow nucleus must not cut the flat row's
    tokens, kept = filtered(logits.softmax(1), None, 0.9)
    assert (kept > 0).sum(1).tolist() == [2700, 1]
    assert tokens[1, 0] == 5


def test_one_token_survives_any_top_p():
    logits = torch.tensor([[0.0, 1.0, 0.5]] * 100)
    tokens, _ = choose(logits, uniforms(100), rule(top_p=1e-9))
    assert tokens.tolist() == [1] * 100


@pytest.mark.parametrize("size", [7, 4096, 4099])
def test_top_k_of_one_is_greedy(size):
    logits = torch.randn(50, size, generator=torch.Generator().manual_seed(1))
    tokens, logprobs = choose(logits.clone(), uniforms(50), rule(top_k=1, temperature=0.7))
    assert torch.equal(tokens, logits.argmax(1))
    best = (logits / 0.7).log_softmax(1).amax(1)
    torch.testing.assert_close(logprobs, best, atol=1e-5, rtol=0)


def test_a_choice_does_not_depend_on_the_rows_beside_it():
    logits = torch.randn(12, 513, generator=torch.Generator().manual_seed(2)) * 4
    noise = uniforms(12)
    for sampling in (rule(), rule(top_k=20, top_p=0.95, temperature=0.6), rule(top_p=0.7)):
        together, _ = choose(logits.clone(), noise, sampling)
        alone = [
            choose(logits[i : i + 1].clone(), noise[i : i + 1], sampling)[0] for i in range(12)
        ]
        assert torch.equal(together, torch.cat(alone))


def test_inversion_follows_the_cumulative_shares():
    masses = torch.tensor([[0.0, 2.0, 0.0, 1.0, 1.0, 0.0]])
    at = [0.0, 0.49, 0.5, 0.74, 0.75, 1 - 2**-53]
    places = invert(masses.expand(len(at), -1), torch.tensor(at, dtype=torch.float64))
    assert places.tolist() == [1, 1, 3, 3, 4, 4]


@pytest.mark.parametrize("size", [1, 2, 31, 64, 1000, 4096, 4099])
def test_inversion_agrees_with_a_plain_search(size):
    masses = torch.randn(200, size, generator=torch.Generator().manual_seed(3)).exp()
    masses[:, ::3] = 0.0
    masses[:, -1] = 1.0
    noise = uniforms(200, seed=4)
    edges = masses.double().cumsum(1)
    plainly = torch.searchsorted(edges, (noise * edges[:, -1])[:, None], right=True).squeeze(1)
    places = invert(masses, noise)
    # Block sums are single precision: a target within rounding of an edge may fall on either side.
    assert (places == plainly).float().mean() > 0.98
    assert (masses.gather(1, places[:, None]) > 0).all()


def test_rare_tokens_are_chosen_as_often_as_they_should():
    """Single-precision noise has no value below 2**-24 and would lose the tail."""
    logits = torch.zeros(3, 2)
    logits[:, 0] = -20.0  # probability 2.06e-9
    noise = torch.tensor([1e-9, 2e-9, 3e-9], dtype=torch.float64)
    tokens, logprobs = choose(logits, noise, rule())
    assert tokens.tolist() == [0, 0, 1]
    assert logprobs[0].item() == pytest.approx(-20.0, abs=1e-5)


def test_impossible_tokens_and_wide_logits():
    logits = torch.full((64, 50), float("-inf"))
    logits[:, 7], logits[:, 9] = 1e4, 1e4 - 1
    for sampling in (rule(), rule(top_k=5), rule(top_p=0.99)):
        tokens, logprobs = choose(logits.clone(), uniforms(64), sampling)
        assert set(tokens.tolist()) == {7, 9}
        assert logprobs.isfinite().all()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_k": 0}, "top_k is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
    ],
)
def test_values_out_of_range_are_refused(values, named):
    with pytest.raises(ValueError, match=named):
        Sampling(**({"samples": 1, "max_tokens": 1} | values))
