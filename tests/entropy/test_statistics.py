"""The fused operation against the plain definition in float64 under autograd."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from aent.config.method import FullSpace, MinP, Nucleus, RankFraction, TopK
from aent.entropy import token_statistics
from aent.entropy.rows import TorchRows
from aent.entropy.tiles import Tiles, default_tiles, product_dtype

SMALL_TILES = Tiles(rows=9, tokens=11, vocabulary=100, cached=2000)


@pytest.fixture(autouse=True, params=["compiled", "torch"])
def way(request, monkeypatch):
    """Both ways in which rows are worked on, on the CPU that is here."""
    if request.param == "torch":
        monkeypatch.setattr(
            "aent.entropy.statistics.rows_for", lambda device, dtype, scale: TorchRows(scale)
        )


@pytest.fixture(params=["narrow products", "wide products"])
def products(request, monkeypatch):
    """Both dtypes in which narrow inputs are multiplied, whatever this processor is good at."""
    narrow = request.param == "narrow products"
    monkeypatch.setattr(
        "aent.entropy.tiles.product_dtype",
        lambda dtype, device: dtype if narrow or dtype == torch.float64 else torch.float32,
    )


@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0], ids=["flat", "random", "peaked"])
def test_values_and_gradients(plain, space, scale):
    plain.compare(plain.make(7, 997, 16, scale), space)


def test_long_rows(plain, space):
    """Rows long enough for the sampled selection."""
    plain.compare(plain.make(12, 5000, 16, 2.0), space)


def test_tiles_and_bias(plain, space):
    """Many tiles in both directions, with a bias and its gradient."""
    inputs = plain.make(40, 997, 16, 2.0)
    bias = torch.randn(997, generator=torch.Generator().manual_seed(3))
    plain.compare(inputs, space, bias=bias, temperature=0.7, tiles=SMALL_TILES)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_temperature(plain, temperature):
    plain.compare(plain.make(9, 700, 8, 2.0), RankFraction(drop=0.4), temperature=temperature)


def test_float64_agrees_to_its_own_resolution(plain, space):
    hidden, weight, targets = plain.make(9, 300, 8, 2.0)
    inputs = (hidden.double(), weight.double(), targets)
    plain.compare(inputs, space, values=1e-12, gradients=1e-10, tiles=SMALL_TILES)
    assert token_statistics(*inputs, space=space).entropy.dtype == torch.float64


@pytest.mark.parametrize("copies", [2, 50])
def test_ties_share_their_places(plain, space, copies):
    """Every logit occurs several times, so that nearly every threshold divides a tie."""
    hidden, weight, targets = plain.exact(plain.make(6, 40, 8, 2.0))
    plain.compare((hidden, weight.repeat(copies, 1), targets), space, temperature=1.3)


def test_ties_in_long_rows_and_tiles(plain):
    hidden, weight, targets = plain.exact(plain.make(20, 300, 8, 2.0))
    inputs = (hidden, weight.repeat(10, 1), targets)
    for space in (RankFraction(drop=0.25), TopK(k=7)):
        plain.compare(inputs, space, tiles=dataclasses.replace(SMALL_TILES, vocabulary=700))


def test_all_logits_equal(plain, space):
    hidden, weight, targets = plain.make(4, 3000, 8)
    plain.compare((hidden, torch.zeros_like(weight), targets), space)


def test_a_tie_gives_the_entropy_of_any_way_to_break_it(plain):
    """3 places, 1 token above and 4 on the threshold: 1 + 2 tokens, whichever two."""
    hidden = torch.tensor([[1.0]])
    weight = torch.tensor([[1.0], [0.5], [0.5], [0.5], [0.5], [-1.0]])
    kept = torch.tensor([1.0, 0.5, 0.5]).softmax(0)
    got = token_statistics(hidden, weight, torch.tensor([0]), space=TopK(k=3))
    assert got.clamped_entropy.item() == pytest.approx(-(kept * kept.log()).sum().item(), rel=1e-6)


@pytest.mark.parametrize("magnitude", [1e2, 1e4])
def test_extreme_logits(plain, space, magnitude):
    """At 1e4 a float32 logit is known to 1e-3, and so is the ratio of two probabilities."""
    hidden, weight, targets = plain.make(6, 500, 4, magnitude)
    # Whole numbers, so that the logits themselves are exact and only our rounding is compared.
    inputs = (hidden.mul(4).round(), weight.round(), targets)
    resolution = magnitude * 2.0**-23
    plain.compare(inputs, space, values=max(1e-5, resolution), gradients=max(1e-4, 4 * resolution))


def test_close_leaders_on_a_pedestal(plain, space):
    """Large logits with a spread of 1: the maximum must not swallow the log-sum's digits."""
    _, weight, targets = plain.exact(plain.make(6, 500, 4))
    inputs = (torch.ones(6, 4), weight + 1000.0, targets)
    plain.compare(inputs, space, values=1e-3, gradients=4e-3)


@pytest.mark.parametrize("excluded", [1, 250, 499])
def test_excluded_tokens(plain, space, excluded):
    """-inf logits, also among the kept tokens: everything stays finite."""
    hidden, weight, _ = plain.make(6, 500, 8)
    bias = torch.zeros(500)
    bias[:excluded] = -math.inf
    targets = torch.full((6,), 499)
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    got = token_statistics(*leaves[:2], targets, bias=leaves[2], space=space)
    with torch.no_grad():
        exact = hidden.double() @ weight.double().T
        exact[:, :excluded] = -1e4  # the definition, without its own NaN
    for mine, wanted in zip(got, plain.reference(exact, targets, space), strict=True):
        torch.testing.assert_close(mine.detach().double(), wanted, rtol=1e-5, atol=2e-6)
    sum(output.sum() for output in got).backward()
    for leaf in leaves:
        assert torch.isfinite(leaf.grad).all()
    assert weight.grad[:excluded].abs().max() < 1e-25
    assert bias.grad[:excluded].abs().max() < 1e-25


def test_an_excluded_target_has_probability_zero():
    bias = torch.tensor([0.0, -math.inf, 0.0])
    hidden = torch.ones(1, 2, requires_grad=True)
    got = token_statistics(hidden, torch.zeros(3, 2), torch.tensor([1]), bias=bias)
    assert got.logprob.item() == -math.inf
    assert got.entropy.item() == pytest.approx(math.log(2), rel=1e-6)
    got.entropy.sum().backward()
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("whole", [RankFraction(drop=0.0), TopK(k=500), Nucleus(mass=1.0)], ids=str)
def test_a_space_that_drops_nothing_is_the_full_entropy(plain, whole):
    hidden, weight, targets = plain.make(6, 500, 8)
    grads = []
    for space, name in ((FullSpace(), "entropy"), (whole, "clamped_entropy")):
        leaves = [t.clone().requires_grad_() for t in (hidden, weight)]
        got = token_statistics(*leaves, targets, space=space)
        assert torch.equal(got.entropy, got.clamped_entropy)
        assert torch.equal(got.kept_mass, torch.ones(6))
        getattr(got, name).sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_dropped_tokens_get_no_gradient(plain):
    """One position: a token outside its space is untouched by the clamped entropy."""
    hidden, weight, _ = plain.make(1, 400, 8)
    weight.requires_grad_()
    token_statistics(
        hidden, weight, torch.tensor([0]), space=RankFraction(drop=0.5)
    ).clamped_entropy.sum().backward()
    kept = plain.weights(hidden @ weight.detach().T, RankFraction(drop=0.5))[0] > 0
    assert torch.equal(weight.grad.abs().sum(1) > 0, kept)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9])
def test_few_tokens(plain, count):
    plain.compare(plain.make(count, 2500, 8), RankFraction(drop=0.25))


def test_no_tokens(plain, space):
    hidden, weight, targets = plain.make(0, 50, 8)
    hidden.requires_grad_(), weight.requires_grad_()
    got = token_statistics(hidden, weight, targets, space=space)
    assert all(output.shape == (0,) for output in got)
    sum(output.sum() for output in got).backward()
    assert hidden.grad.shape == (0, 8)
    assert torch.equal(weight.grad, torch.zeros(50, 8))


def test_a_vocabulary_of_one_token(plain, space):
    got = token_statistics(*plain.make(3, 1, 8), space=space)
    for output, expected in zip(got, (0.0, 0.0, 0.0, 1.0), strict=True):
        torch.testing.assert_close(output, torch.full((3,), expected), rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tiles", [None, SMALL_TILES], ids=["default", "small"])
def test_narrow_inputs(plain, space, dtype, tiles):
    """Against the definition on logits rounded as a model's head rounds them."""
    hidden, weight, targets = (
        t.to(dtype) if t.is_floating_point() else t for t in plain.make(30, 2500, 8, 2.0)
    )
    leaves = [t.requires_grad_() for t in (hidden, weight)]
    got = token_statistics(*leaves, targets, space=space, tiles=tiles)
    logits = (hidden @ weight.T).detach().double().requires_grad_()
    want = plain.reference(logits, targets, space)
    for mine, wanted in zip(got, want, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), wanted.detach(), rtol=1e-5, atol=2e-6)
    mix = torch.randn(4, 30, generator=torch.Generator().manual_seed(1))
    sum((m * g).sum() for m, g in zip(mix, got, strict=True)).backward()
    sum((m * w).sum() for m, w in zip(mix.double(), want, strict=True)).backward()
    exact = (logits.grad @ weight.detach().double(), logits.grad.T @ hidden.detach().double())
    for leaf, wanted in zip(leaves, exact, strict=True):
        assert leaf.grad.dtype == dtype
        error = (leaf.grad.double() - wanted).abs().max() / wanted.abs().max()
        assert error < 4 * torch.finfo(dtype).eps


@pytest.mark.usefixtures("products")
def test_narrow_sums_are_not_rounded_between_tiles(plain):
    """Many tiles of bfloat16 give the gradient of one, though their products cancel."""
    hidden, weight, targets = plain.make(200, 4000, 16, 2.0)
    weight += 3.0  # a common part, whose gradient is nil in sum
    one = Tiles(rows=200, tokens=200, vocabulary=4000, cached=1 << 18)
    grads = []
    for tiles in (one, dataclasses.replace(one, tokens=8, vocabulary=40)):
        leaves = [t.bfloat16().requires_grad_() for t in (hidden, weight)]
        token_statistics(*leaves, targets, tiles=tiles).entropy.sum().backward()
        grads.append([leaf.grad.double() for leaf in leaves])
    for single, many in zip(*grads, strict=True):
        assert (many - single).norm() < 1e-3 * single.norm()


@pytest.mark.usefixtures("products")
def test_a_bias_and_a_large_weight_of_narrow_inputs(plain):
    hidden, weight, targets = plain.exact(plain.make(9, 9000, 512))
    bias = torch.randn(9000, generator=torch.Generator().manual_seed(3)).bfloat16()
    leaves = [t.bfloat16().requires_grad_() for t in (hidden, weight, bias)]
    got = token_statistics(*leaves[:2], targets, bias=leaves[2], space=RankFraction(drop=0.25))
    with torch.no_grad():
        logits = torch.addmm(leaves[2], leaves[0], leaves[1].T).double()
    want = plain.reference(logits.requires_grad_(), targets, RankFraction(drop=0.25))
    for mine, wanted in zip(got, want, strict=True):
        torch.testing.assert_close(mine.double(), wanted.detach(), rtol=1e-5, atol=2e-6)
    sum(output.sum() for output in got).backward()
    sum(output.sum() for output in want).backward()
    exact = (logits.grad @ weight.double(), logits.grad.T @ hidden.double(), logits.grad.sum(0))
    for leaf, wanted in zip(leaves, exact, strict=True):
        error = (leaf.grad.double() - wanted).abs().max() / wanted.abs().max()
        assert error < 4 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize(
    ("dtype", "able", "product"),
    [
        (torch.float32, {}, torch.float32),
        (torch.float64, {}, torch.float64),
        (torch.bfloat16, {}, torch.float32),
        (torch.bfloat16, {"amx_bf16": True}, torch.bfloat16),
        (torch.bfloat16, {"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        (torch.float16, {"avx512_bf16": True}, torch.float32),
        (torch.float16, {"avx512_fp16": True}, torch.float16),
    ],
)
def test_narrow_products_where_the_processor_has_them(monkeypatch, dtype, able, product):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert product_dtype(dtype, torch.device("cpu")) == product
    assert product_dtype(dtype, torch.device("cuda")) == dtype


def test_autocast_casts_as_a_head_does(plain):
    hidden, weight, targets = plain.make(12, 600, 8)
    want = token_statistics(hidden.bfloat16(), weight.bfloat16(), targets, space=TopK(k=9))
    leaf = weight.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = token_statistics(hidden, leaf, targets, space=TopK(k=9))
        got.clamped_entropy.sum().backward()
    assert all(torch.equal(a.detach(), b) for a, b in zip(got, want, strict=True))
    assert leaf.grad.dtype == torch.float32


def test_strides_do_not_matter(plain):
    hidden, weight, targets = plain.make(12, 600, 8)
    spread = torch.stack([targets, targets], 1)[:, 0]
    strided = (hidden.T.contiguous().T, torch.cat([weight, weight], 1)[:, :8], spread)
    assert not any(t.is_contiguous() for t in strided)
    plain.compare(strided, RankFraction(drop=0.3))
    for tiles in (None, SMALL_TILES):
        want = token_statistics(hidden, weight, targets, space=TopK(k=9), tiles=tiles)
        got = token_statistics(*strided, space=TopK(k=9), tiles=tiles)
        for mine, wanted in zip(got, want, strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("asked", range(4))
def test_a_single_output_can_be_differentiated(plain, space, asked):
    """Terms that nobody asks for are left out of the backward pass, not set to rubbish."""
    hidden, weight, targets = plain.make(6, 300, 8)
    leaf = weight.clone().requires_grad_()
    exact = weight.double().requires_grad_()
    token_statistics(hidden, leaf, targets, space=space)[asked].sum().backward()
    wanted = plain.reference(hidden.double() @ exact.T, targets, space)[asked]
    (gradient,) = torch.autograd.grad(wanted.sum(), exact)
    assert (leaf.grad.double() - gradient).abs().max() <= 1e-4 * gradient.abs().max() + 2e-6


def test_only_what_requires_a_gradient_gets_one(plain):
    hidden, weight, targets = plain.make(6, 300, 8)
    hidden.requires_grad_()
    token_statistics(hidden, weight, targets).entropy.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
    assert not token_statistics(hidden.detach(), weight, targets).entropy.requires_grad


def test_same_input_same_bits(plain):
    runs = []
    for _ in range(2):
        hidden, weight, targets = plain.make(50, 3000, 16)
        hidden.requires_grad_(), weight.requires_grad_()
        got = token_statistics(hidden, weight, targets, space=RankFraction(drop=0.25))
        sum(output.sum() for output in got).backward()
        runs.append([*got, hidden.grad, weight.grad])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_default_tiles_are_small():
    for size in (4096, 8192, 32_000, 151_936):
        tiles = default_tiles(size, torch.device("cpu"))
        assert 4 * tiles.rows * size <= 85e6
        assert 4 * tiles.tokens * tiles.vocabulary <= 85e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(2, 3, 4)}, r"hidden must be \[N, H\], got shape \(2, 3, 4\)"),
        ({"weight": torch.zeros(5, 3)}, r"weight must be \[V, 4\].*got shape \(5, 3\)"),
        ({"weight": torch.zeros(0, 4)}, r"V > 0"),
        ({"targets": torch.zeros(3, dtype=torch.long)}, r"targets must be int64 of shape \(2,\)"),
        ({"targets": torch.zeros(2)}, r"targets must be int64.*got torch.float32"),
        ({"targets": torch.tensor([0, 5])}, r"targets must be in \[0, 5\), got.*0 to 5"),
        ({"targets": torch.tensor([-1, 0])}, r"targets must be in \[0, 5\), got.*-1 to 0"),
        ({"bias": torch.zeros(4)}, r"bias must be \[5\], got shape \(4,\)"),
        ({"weight": torch.zeros(5, 4).bfloat16()}, r"weight is torch.bfloat16, hidden is"),
        ({"hidden": torch.zeros(2, 4, dtype=torch.long)}, r"hidden must be floating point"),
        ({"temperature": 0.0}, r"temperature must be a positive number, got 0.0"),
        ({"temperature": -1.0}, r"temperature must be a positive number, got -1.0"),
        ({"temperature": math.nan}, r"temperature must be a positive number, got nan"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {
        "hidden": torch.zeros(2, 4),
        "weight": torch.zeros(5, 4),
        "targets": torch.zeros(2, dtype=torch.long),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        token_statistics(**arguments)


@pytest.mark.parametrize("drop", [-0.1, 1.0, 1.5, math.nan])
def test_a_fraction_outside_its_range_is_refused(drop):
    with pytest.raises(ValueError, match="drop"):
        RankFraction(drop=drop)


def test_min_p_keeps_what_reaches_the_threshold():
    """Probabilities 4 : 2 : 1 : 0.5 in bits; epsilon 0.25 keeps the third token too."""
    weight = torch.tensor([[2.0], [1.0], [0.0], [-1.0]]) * math.log(2.0)
    got = token_statistics(torch.ones(1, 1), weight, torch.tensor([0]), space=MinP(epsilon=0.2499))
    assert got.kept_mass.item() == pytest.approx(7 / 7.5, rel=1e-6)


def test_a_large_weight_with_few_rows(plain):
    """Large enough for the product that is computed some columns at a time."""
    hidden, weight, targets = plain.make(9, 9000, 512)
    bias = torch.randn(9000, generator=torch.Generator().manual_seed(3))
    plain.compare((hidden, weight, targets), RankFraction(drop=0.25), bias=bias)
