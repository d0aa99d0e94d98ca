"""The backward pass of the statistics: gradients of logits, and their sums over tiles."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aent.entropy.reduction import Saved
from aent.entropy.rows import LN2
from aent.entropy.tiles import Head, Tiles, spans

WIDENED = 2048
"""Terms of a narrow product that are widened to float32 at once."""


class LogitGradient(NamedTuple):
    """Gradient of a logit as a function of its score x; each number of shape [N, 1].

    exp2(x) * (constant + linear * x + w * (kept_constant + kept_linear * x)), and `onehot` more
    for the target. Terms that no output asks for are None and cost nothing.
    """

    constant: Tensor
    linear: Tensor | None
    kept_constant: Tensor | None
    kept_linear: Tensor | None
    onehot: Tensor | None
    threshold: Tensor
    share: Tensor

    @classmethod
    def of(
        cls,
        saved: Saved,
        grads: tuple[Tensor | None, ...],
        *,
        temperature: float,
        whole: bool,
    ) -> LogitGradient:
        """Turn the outputs' gradients into the numbers of the module `statistics`.

        Args:
            saved: What the forward pass kept.
            grads: Gradients of log-probability, entropy, clamped entropy and kept mass, [N] or
                None each.
            temperature: Divides the logits.
            whole: The token space is the whole vocabulary.
        """
        saved = Saved(*(field[:, None] for field in saved))
        logprob, entropy, clamped, kept = (None if g is None else g[:, None] for g in grads)
        if whole:  # the clamped entropy is the entropy, and the kept mass never moves
            asked = [grad for grad in (entropy, clamped) if grad is not None]
            entropy = sum(asked[1:], asked[0]) if asked else None
            clamped = kept = None
        factor = torch.exp(-saved.log_total) / temperature
        constant = torch.zeros_like(factor)
        linear = kept_constant = kept_linear = None
        if logprob is not None:
            constant -= logprob
        if entropy is not None:
            constant -= entropy * (saved.entropy - saved.log_total)
            linear = -LN2 * entropy * factor
        if kept is not None:
            constant -= kept * saved.kept
            kept_constant = kept * factor
        if clamped is not None:
            density = -clamped / saved.kept * factor
            kept_linear = LN2 * density
            term = density * (saved.clamped - saved.log_total - saved.kept.log())
            kept_constant = term if kept_constant is None else kept_constant + term
        return cls(
            constant=constant * factor,
            linear=linear,
            kept_constant=kept_constant,
            kept_linear=kept_linear,
            onehot=None if logprob is None else logprob / temperature,
            threshold=saved.threshold,
            share=saved.share,
        )

    def part(self, at: slice) -> LogitGradient:
        """Those of some of the tokens."""

        def cut(field: Tensor | None) -> Tensor | None:
            return None if field is None else field[at]

        return LogitGradient(
            constant=self.constant[at],
            linear=cut(self.linear),
            kept_constant=cut(self.kept_constant),
            kept_linear=cut(self.kept_linear),
            onehot=cut(self.onehot),
            threshold=self.threshold[at],
            share=self.share[at],
        )

    def at_targets(self, targets: Tensor, columns: slice) -> tuple[Tensor, Tensor] | None:
        """Where in a tile the targets are, and what their logits' gradients have in addition.

        Args:
            targets: [N] tokens.
            columns: The tile's part of the vocabulary.

        Returns:
            Columns inside the tile and values, 0 for a target outside; both [N, 1].
        """
        if self.onehot is None:
            return None
        inside = (targets >= columns.start) & (targets < columns.stop)
        column = (targets - columns.start).clamp_(0, columns.stop - columns.start - 1)
        return column[:, None], self.onehot * inside[:, None]


class GradientSums:
    """Sums of the tiles' contributions to the gradients of hidden states, weight and bias.

    Wherever more than one matrix product goes into an element, they are summed in float32 (or
    float64). A single product is written in place.
    """

    def __init__(
        self, head: Head, needed: tuple[bool, bool, bool], tiles: Tiles, dtype: torch.dtype
    ) -> None:
        """Allocate what is summed.

        Args:
            head: Computes the tiles.
            needed: Whether hidden states, weight and bias need a gradient.
            tiles: Sizes of the tiles.
            dtype: Dtype of the sums.
        """
        hidden, weight = head.hidden, head.weight
        self.head, self.dtype = head, dtype
        same = head.dtype == hidden.dtype
        one_chunk = same and len(hidden) <= tiles.tokens
        one_column = same and len(weight) <= tiles.vocabulary
        self.hidden = self.weight = self.bias = self.partial = None
        if needed[0]:
            self.hidden = hidden.new_empty(hidden.shape, dtype=None if one_column else dtype)
        if needed[1]:
            make = weight.new_empty if len(hidden) else weight.new_zeros
            self.weight = make(weight.shape)
            if not one_chunk:
                width = min(len(weight), tiles.vocabulary)
                self.partial = weight.new_empty((weight.shape[1], width), dtype=dtype)
        if needed[2]:
            self.bias = weight.new_zeros(len(weight), dtype=dtype)

    def add(self, tile: Tensor, chunk: slice, columns: slice) -> None:
        """Add what a tile of gradients of logits, [tokens, vocabulary], contributes."""
        hidden, weight = self.head.tokens(chunk), self.head.columns(columns)
        if self.hidden is not None:
            _accumulate(self.hidden[chunk], tile, weight, first=columns.start == 0)
        if self.partial is not None:
            # Transposed: the product with a wide result is the faster one.
            partial = self.partial[:, : tile.shape[1]]
            _accumulate(partial, hidden.t(), tile, first=chunk.start == 0)
        elif self.weight is not None:
            torch.mm(tile.t(), hidden, out=self.weight[columns])
        if self.bias is not None:
            self.bias[columns] += tile.sum(0, dtype=self.dtype)

    def close(self, columns: slice) -> None:
        """End a range of the vocabulary after the last of its tiles."""
        if self.weight is not None and self.partial is not None:
            self.weight[columns] = self.partial[:, : columns.stop - columns.start].t()

    def results(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of hidden states, weight and bias, in the inputs' dtype."""
        dtype = self.head.hidden.dtype
        return (
            None if self.hidden is None else self.hidden.to(dtype),
            self.weight,
            None if self.bias is None else self.bias.to(dtype),
        )


def _accumulate(total: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    """Add a product to a sum, or start the sum with it, without rounding it before.

    A gradient is a small difference of large terms, so that partial products rounded to bfloat16
    would spoil a sum in float32. One that starts and ends the sum may be rounded as it is stored.
    """
    if total.dtype == left.dtype:
        torch.addmm(total, left, right, beta=0.0 if first else 1.0, out=total)
        return
    if first:
        total.zero_()
    if total.device.type == "cuda":
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
        return
    for part in spans(left.shape[1], WIDENED):  # a CPU has no such product: widen, a little each
        total.addmm_(left[:, part].to(total.dtype), right[part].to(total.dtype))
