"""Selection of a rank: both CPU ways and the way of other devices, against sorting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aent.entropy.selection import (
    count_true,
    descending,
    kth_smallest,
    partitioned_cut,
    partitioned_rank,
    sorted_rank,
)

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
}


def rows(kind, count=9, size=4099):
    return KINDS[kind](torch.randn(count, size, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.25, 0.333, 0.5, 0.9, 0.9999])
def test_every_way_finds_the_same_rank(kind, share):
    values = rows(kind)
    rank = int(share * values.shape[1])
    got = kth_smallest(values, rank)
    for a, b in zip(got, sorted_rank(values, rank), strict=True):
        assert a.shape == (len(values),)
        assert torch.equal(a, b)
    value, below, tied = partitioned_rank(values.numpy(), rank)
    assert np.array_equal(got.value.numpy(), value)
    assert np.array_equal(got.above.numpy(), values.shape[1] - below - tied)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 1000, 4098])
def test_partitioned_rows_are_cut_where_the_rank_is(kind, rank):
    values = rows(kind)
    ranked = sorted_rank(values, rank)
    parts = torch.from_numpy(np.partition(values.numpy(), rank, axis=1))
    got = partitioned_cut(parts, rank, torch.empty((1, parts.numel()), dtype=torch.bool))
    assert torch.equal(got.threshold, ranked.value)
    assert torch.equal(got.places, (values.shape[1] - rank - ranked.above).float())
    assert torch.allclose(got.share, got.places / ranked.tied)


@pytest.mark.parametrize("size", [1, 2, 300, 2048, 3072, 8192])
def test_sizes_and_last_ranks(size):
    values = rows("normal", size=size)
    for rank in {0, size // 3, size - 1}:
        got = kth_smallest(values, rank)
        assert torch.equal(got.value, values.sort(1).values[:, rank])
        assert torch.equal(got.above, torch.full((9,), size - 1 - rank))


def test_float64_and_rows_of_a_larger_matrix():
    values = rows("normal").double()[:, :4000]
    assert torch.equal(kth_smallest(values, 1234).value, values.sort(1).values[:, 1234])


def test_the_buffer_size_of_numpy_is_left_as_it_was():
    before = np.getbufsize()
    kth_smallest(rows("normal"), 7)
    assert np.getbufsize() == before


def test_a_rank_outside_the_row_is_refused():
    with pytest.raises(ValueError, match="rank 5 is outside a row of 5 values"):
        kth_smallest(torch.zeros(2, 5), 5)


@pytest.mark.parametrize("size", [1000, 1024, 8192])
def test_counting(size):
    mask = rows("normal", size=size).numpy() < 0.3
    assert np.array_equal(count_true(mask), mask.sum(1))
    assert np.array_equal(count_true(np.ones_like(mask)), np.full(9, size))
    assert np.array_equal(count_true(mask.T), mask.sum(0))


@pytest.mark.parametrize("kind", KINDS)
def test_descending(kind):
    values = rows(kind)
    least = values.quantile(0.8, dim=1)
    got = descending(values, least)
    for row, line, bound in zip(values, got, least, strict=True):
        wanted = row[row >= bound].sort(descending=True).values
        assert torch.equal(line[: len(wanted)], wanted)
        assert (line[len(wanted) :] == -float("inf")).all()
