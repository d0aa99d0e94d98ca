"""Pieces of a minibatch: within the budget, and as many as asked for."""

import pytest
import torch

from aent.batches import cut_to, micro_batches


def test_pieces_stay_within_the_token_budget(ragged_rollouts):
    pieces = micro_batches(ragged_rollouts, torch.arange(4), 12)
    assert [piece.tolist() for piece in pieces] == [[1, 3], [2], [0]]
    [whole] = micro_batches(ragged_rollouts, torch.arange(4), None)
    assert whole.tolist() == [0, 1, 2, 3]


def test_the_largest_pieces_are_halved_until_there_are_enough():
    pieces = [torch.arange(5), torch.arange(5, 7)]
    cut = cut_to(pieces, 4)
    assert [piece.tolist() for piece in cut] == [[0, 1], [2, 3, 4][:1], [3, 4], [5, 6]]
    assert [len(piece) for piece in cut_to(pieces, 7)] == [1] * 7
    assert cut_to(pieces, 2) == pieces


@pytest.mark.parametrize("count", [1, 8])
def test_impossible_numbers_of_pieces_are_refused(count):
    with pytest.raises(ValueError, match=rf"2 pieces of 7 rows cannot be cut to {count}"):
        cut_to([torch.arange(5), torch.arange(5, 7)], count)
