"""What must hold for any logits: bounds, and invariances of values and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aent.config.method import MinP, Nucleus, RankFraction, TopK
from aent.entropy import token_statistics

spaces = st.one_of(
    st.builds(RankFraction, drop=st.floats(0.0, 1.0, exclude_max=True)),
    st.builds(TopK, k=st.integers(1, 70)),
    st.builds(Nucleus, mass=st.floats(1e-3, 1.0)),
    st.builds(MinP, epsilon=st.floats(1e-6, 1.0)),
)
# Quarters tie often; the range passes what float32's exponential can hold.
rows = st.lists(st.integers(-800, 800).map(lambda n: n / 4), min_size=1, max_size=60)


def statistics(logits, space, **options):
    """Statistics of one row of logits, which the bias carries."""
    bias = torch.tensor(logits).requires_grad_()
    hidden, weight = torch.zeros(1, 1), torch.zeros(len(logits), 1)
    got = token_statistics(hidden, weight, torch.tensor([0]), bias=bias, space=space, **options)
    return got, bias


def gradient(logits, space):
    got, bias = statistics(logits, space)
    (got.logprob + got.entropy - 2 * got.clamped_entropy + got.kept_mass).sum().backward()
    return bias.grad


@settings(deadline=None, derandomize=True, max_examples=150)
@given(rows, spaces)
def test_bounds(logits, space):
    got, _ = statistics(logits, space)
    assert 0.0 < got.kept_mass.item() <= 1.0 + 1e-6
    assert -1e-6 <= got.clamped_entropy.item() <= math.log(len(logits)) + 1e-5
    assert -1e-6 <= got.entropy.item() <= math.log(len(logits)) + 1e-5
    assert got.logprob.item() <= 1e-6


@settings(deadline=None, derandomize=True, max_examples=100)
@given(rows, st.integers(1, 60))
def test_a_space_of_k_tokens_has_at_most_log_k_of_entropy(logits, k):
    got, _ = statistics(logits, TopK(k=k))
    assert got.clamped_entropy.item() <= math.log(min(k, len(logits))) + 1e-5


@settings(deadline=None, derandomize=True, max_examples=100)
@given(rows, spaces, st.integers(-200, 200))
def test_a_shift_of_the_logits_changes_nothing(logits, space, shift):
    got, _ = statistics(logits, space)
    moved, _ = statistics([z + shift for z in logits], space)
    for a, b in zip(got, moved, strict=True):
        assert a.item() == pytest.approx(b.item(), rel=1e-4, abs=1e-4)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(rows, spaces, st.randoms(use_true_random=False))
def test_permuting_the_vocabulary_permutes_the_gradient(logits, space, random):
    order = list(range(1, len(logits)))
    random.shuffle(order)
    order = [0, *order]  # the target stays where it is
    plain = gradient(logits, space)
    permuted = gradient([logits[i] for i in order], space)
    torch.testing.assert_close(permuted, plain[order], rtol=1e-4, atol=1e-5)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(rows, spaces)
def test_gradients_of_a_row_sum_to_zero(logits, space):
    """A common shift of the logits changes no output."""
    assert gradient(logits, space).sum().item() == pytest.approx(0.0, abs=2e-4)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(rows, spaces, st.floats(0.2, 5.0))
def test_a_temperature_is_a_division(logits, space, temperature):
    got, _ = statistics(logits, space, temperature=temperature)
    cooled, _ = statistics([z / temperature for z in logits], space)
    # A space's edge may fall on the other side of a rounded tie; the full statistics have none.
    for a, b in list(zip(got, cooled, strict=True))[:2]:
        assert a.item() == pytest.approx(b.item(), rel=1e-4, abs=1e-4)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(rows, st.floats(0.0, 1.0, exclude_max=True))
def test_the_paper_drops_the_integer_part_of_p_times_v(logits, drop):
    kept = len(logits) - int(drop * len(logits))
    by_fraction, _ = statistics(logits, RankFraction(drop=drop))
    by_count, _ = statistics(logits, TopK(k=kept))
    for a, b in zip(by_fraction, by_count, strict=True):
        assert torch.equal(a, b)
