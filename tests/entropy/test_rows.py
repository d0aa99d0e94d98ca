"""Work on rows: compiled kernels and torch against sorting and float64, and against each other."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from aent.entropy import kernels
from aent.entropy.gradients import LogitGradient
from aent.entropy.rows import FLOOR, CompiledRows, TorchRows, rows_for

KINDS = {
    "normal": lambda values: values,
    "bf16": lambda values: values.bfloat16().float(),
    "few values": lambda values: values.mul(2).round(),
    "equal": torch.zeros_like,
    "one outlier": lambda values: (values == values.max(1, keepdim=True).values) * -90.0,
    "heavy tails": lambda values: values**5,
    "sorted": lambda values: values.sort(1).values,
    "floored": lambda values: values.mul(200).clamp(-100, 0),
    "mixed rows": lambda values: torch.cat([values[:4], values[4:7].round(), values[7:] * 0]),
    "neighbours": lambda values: torch.where(
        values > 0, 1.0, 1.0 + torch.finfo(torch.float32).eps * (values < -1)
    ),
    "signed zeros": lambda values: values.sign() * 0.0,
    "two scales": lambda values: torch.where(values > 1, values, values * 1e-30),
}
WAYS = {"compiled": CompiledRows(1.0), "torch": TorchRows(1.0)}


def rows(kind, count=9, size=4099):
    return KINDS[kind](torch.randn(count, size, generator=torch.Generator().manual_seed(5)))


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request):
    """Either way of working on rows."""
    return request.param


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 4, 1024, 1366, 2049, 3689, 4098])
def test_a_rank_is_found_and_its_places_are_shared(way, kind, count):
    values = rows(kind)
    got = way.drop(values.clone(), count)
    edge = values.sort(1).values[:, count]
    above, tied = ((op(values, edge[:, None])).sum(1) for op in (torch.gt, torch.eq))
    assert torch.equal(got.threshold, edge)
    assert torch.equal(got.places, (values.shape[1] - count - above).float())
    assert torch.allclose(got.share, got.places / tied)


@pytest.mark.parametrize("size", [2, 63, 64, 65, 128, 129, 300, 2048, 8192])
def test_sizes_and_last_ranks(way, size):
    values = rows("normal", size=size)
    for count in {1, size // 3 or 1, size - 1}:
        got = way.drop(values.clone(), count)
        assert torch.equal(got.threshold, values.sort(1).values[:, count])
        assert torch.equal(got.share, torch.ones(9))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mass", [1e-6, 0.1, 0.5, 0.9037, 0.999999])
def test_the_smallest_set_that_reaches_a_mass(way, kind, mass):
    scores = rows(kind)
    scores = (scores - scores.max(1, keepdim=True).values).clamp(min=-100.0)
    got = way.keep(scores.clone(), mass)
    for row, edge, share, places in zip(scores, *got, strict=True):
        p = torch.exp2(row.double())
        above = p[row > edge].sum() / p.sum()
        assert above < mass + 1e-6
        assert above + places * torch.exp2(edge.double()) / p.sum() > mass - 1e-6
        assert 1 <= places <= (row == edge).sum()
        assert share == pytest.approx((places / (row == edge).sum()).item())


def test_scores_and_sums(way):
    logits = rows("normal", size=5000) * 8
    scores = logits.clone()
    shift = way.to_scores(scores)
    exact = logits.double() - logits.double().max(1, keepdim=True).values
    torch.testing.assert_close(shift, -logits.max(1, keepdim=True).values)
    torch.testing.assert_close(scores.double(), exact, rtol=1e-5, atol=1e-5)
    threshold = scores.median(1).values
    mass = torch.exp2(scores.double())
    kept = mass * (scores > threshold[:, None])
    want = torch.stack([part.sum(1) for part in (mass, mass * scores, kept, kept * scores)], 1)
    torch.testing.assert_close(way.sums(scores, threshold).double(), want, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(
        way.sums(scores, None)[:, :2].double(), want[:, :2], rtol=2e-6, atol=0
    )


@pytest.mark.parametrize(
    "absent", [(), ("linear",), ("kept_constant", "kept_linear"), ("kept_linear",)]
)
def test_gradients(way, absent):
    logits = rows("few values") * 3
    shift = -logits.amax(1, keepdim=True)
    draw = torch.Generator().manual_seed(2)
    fields = {name: torch.randn(9, 1, generator=draw) for name in LogitGradient._fields}
    fields |= {"threshold": torch.full((9, 1), -9.0), "share": torch.rand(9, 1, generator=draw)}
    fields |= dict.fromkeys(absent)
    gradient = LogitGradient(**fields)
    x = (logits + shift).double().clamp(min=-100.0)
    weight = (x > -9.0) + (x == -9.0) * fields["share"].double()
    assert (x == -9.0).any()
    a, b, c, d = (
        0.0 if fields[name] is None else fields[name].double()
        for name in ("constant", "linear", "kept_constant", "kept_linear")
    )
    want = torch.exp2(x) * (a + b * x + weight * (c + d * x))
    way.to_gradients(logits, shift, gradient)
    torch.testing.assert_close(logits.double(), want, rtol=2e-5, atol=1e-7)


def test_exp2_is_right_to_a_unit_in_the_last_place():
    x = np.linspace(-126, 127, 200_001).astype(np.float32)
    got = np.array([kernels.exp2(value) for value in x])
    exact = np.exp2(x.astype(np.float64))
    assert (np.abs(got - exact) <= np.spacing(exact.astype(np.float32))).all()


def test_a_score_never_leaves_the_floor(way):
    logits = torch.tensor([[0.0, -torch.inf, -1e4, -99.5]])
    way.to_scores(logits)
    floor = FLOOR[torch.float32]
    assert logits.tolist() == [[0.0, floor, floor, -99.5]]


def test_nan_is_not_lost(way):
    """A row with a NaN has no finite sum, and its neighbours are as they would be without it."""
    logits = rows("normal", count=3)
    clean = logits.clone()
    logits[1, 77] = torch.nan
    results = []
    for values in (logits, clean):
        way.to_scores(values)
        cut = way.drop(values, 1000)
        results.append((way.sums(values, cut.threshold), way.keep(values, 0.5).threshold))
    sums, edges = zip(*results, strict=True)
    assert torch.isnan(sums[0][1, :2]).all()
    for got, want in (sums, edges):
        assert torch.equal(got[[0, 2]], want[[0, 2]])


def test_the_number_of_threads_changes_no_bit():
    way, before = WAYS["compiled"], torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            scores = rows("normal", count=7)
            shift = way.to_scores(scores)
            cut, kept = way.drop(scores, 1000), way.keep(scores, 0.9)
            results.append([scores, shift, *cut, *kept, way.sums(scores, cut.threshold)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


DIGEST = """
import hashlib, sys
import torch
from aent.config.method import FullSpace, Nucleus, RankFraction
from aent.entropy import token_statistics

torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
hidden, weight = (torch.randn(n, 16, generator=draw).requires_grad_() for n in (40, 5000))
digest = hashlib.sha256()
spaces = [FullSpace(), RankFraction(drop=0.3), Nucleus(mass=0.9)]
for space in spaces[: int(sys.argv[1])]:
    got = token_statistics(hidden, weight, torch.arange(40), space=space)
    sum(output.sum() for output in got).backward()
    digest.update(torch.cat([*(g.detach() for g in got), hidden.grad.ravel()]).numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_kernels_round_alike_whether_compiled_now_or_found_on_disk(tmp_path):
    """Runs go on bit for bit in another process, with what an earlier one has compiled or not."""

    def digest(cache, spaces):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / cache)}
        command = [sys.executable, "-c", DIGEST, str(spaces)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    compiled = digest("whole", 3)
    assert digest("whole", 3) == compiled
    digest("part", 1)  # leaves two kernels to compile
    assert digest("part", 3) == compiled


def test_kernels_serve_float32_on_a_cpu_only():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert isinstance(rows_for(cpu, torch.float32, 1.0), CompiledRows)
    assert isinstance(rows_for(cpu, torch.float64, 1.0), TorchRows)
    assert isinstance(rows_for(cuda, torch.float32, 1.0), TorchRows)
