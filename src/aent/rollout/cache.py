"""A key/value cache that grows in place: stock ones copy everything at each token."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DummyLayer, DynamicLayer, LinearAttentionCacheLayerMixin

# Their states could not be repeated; some of them count as attention layers all the same.
RECURRENT = LinearAttentionCacheLayerMixin

ROOM = 32
"""Tokens of room made at least when a layer is full."""


class RoomyLayer(DynamicLayer):
    """Keys and values of one attention layer within a buffer that has room for more tokens.

    `keys` and `values` are views [B, heads, tokens, head size] of what the buffers hold so far.
    """

    def __init__(self, layer: DynamicLayer, repeats: int):
        """Take over a filled layer, each of its rows `repeats` times."""
        super().__init__()
        assert layer.keys is not None
        assert layer.values is not None
        self.dtype, self.device, self.is_initialized = layer.keys.dtype, layer.keys.device, True
        self._set(
            _with_room(layer.keys, _room(layer.keys), repeats),
            _with_room(layer.values, _room(layer.values), repeats),
            layer.keys.shape[2],
        )

    def _set(self, keys: Tensor, values: Tensor, used: int) -> None:
        self._buffers, self._used = (keys, values), used
        self.keys, self.values = keys[:, :, :used], values[:, :, :used]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append states [B, heads, new tokens, head size]; gives all keys and values."""
        keys, values = self._buffers
        used, new = self._used, self._used + key_states.shape[2]
        if new > keys.shape[2]:
            room = max(_room(keys), key_states.shape[2])
            keys, values = _with_room(keys, room), _with_room(values, room)
        keys[:, :, used:new] = key_states
        values[:, :, used:new] = value_states
        self._set(keys, values, new)
        return keys[:, :, :new], values[:, :, :new]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        keys, values = (buffer.index_select(0, indices) for buffer in self._buffers)
        self._set(keys, values, self._used)


def repeat(cache: DynamicCache, repeats: int) -> None:
    """Repeat a filled cache's rows, each beside itself, and give attention layers room to grow.

    Sliding windows stay what they are.

    Raises:
        NotImplementedError: a layer keeps something else than keys and values.
    """
    for place, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[place] = RoomyLayer(layer, repeats)
        elif isinstance(layer, DynamicLayer | DummyLayer) and not isinstance(layer, RECURRENT):
            layer.batch_repeat_interleave(repeats)
        else:
            raise NotImplementedError(
                f"layer {place} keeps a {type(layer).__name__}; only attention layers' keys and "
                "values can be repeated for the samples of a prompt"
            )


def _room(states: Tensor) -> int:
    return max(ROOM, states.shape[2] // 4)


def _with_room(states: Tensor, room: int, repeats: int = 1) -> Tensor:
    """Copy [B, h, n, d] into a buffer [B * repeats, h, n + room, d]."""
    rows, heads, used, size = states.shape
    buffer = states.new_empty(rows, repeats, heads, used + room, size)
    buffer[:, :, :, :used] = states[:, None]
    return buffer.flatten(0, 1)
