"""Attention states of the current batch, and of recent rows, because later prompts often extend them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

States = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, (heads, tokens, dimension), of one row without padding."""


_ROOM = 64
"""Columns by which a layer grows."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values with room to grow.

    The layer of transformers copies all of them for every token. On a CPU that costs as much as the products with the
    weights.
    """

    keys: Tensor
    values: Tensor
    _room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append columns; (rows, heads, columns, dimension). Returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < after:
            roomy = [
                states.new_empty(*states.shape[:2], after + _ROOM, states.shape[3])
                for states in (key_states, value_states)
            ]
            if before:
                roomy[0][:, :, :before], roomy[1][:, :, :before] = self.keys, self.values
            self._room = roomy[0], roomy[1]
        keys, values = self._room
        keys[:, :, before:after], values[:, :, before:after] = key_states, value_states
        self.keys, self.values = keys[:, :, :after], values[:, :, :after]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows of the batch."""
        super().batch_select_indices(indices)
        self._room = None


def empty_cache(config: PreTrainedConfig) -> DynamicCache:
    """A cache for the model's layers, with room to grow in layers that keep all their keys and values."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class Prefixes:
    """Tokens and states of the latest rows, up to `capacity` tokens in all; the oldest row is dropped first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._rows: deque[tuple[Tensor, States]] = deque()
        self._held = 0

    def add(self, tokens: Sequence[int], cache: DynamicCache, row: int) -> None:
        """Keep a row of a batch padded on the left; `tokens` are those that have states in the cache."""
        if len(tokens) > self.capacity:
            return
        states = [
            (layer.keys[row, :, -len(tokens) :].clone(), layer.values[row, :, -len(tokens) :].clone())
            for layer in cache.layers
        ]
        self._rows.append((torch.tensor(tokens), states))
        self._held += len(tokens)
        while self._held > self.capacity:
            self._held -= len(self._rows.popleft()[0])

    def longest(self, tokens: Sequence[int]) -> tuple[int, States]:
        """The longest prefix, in tokens, that some kept row shares, and that row's states; never all tokens. 0 if no row does."""
        wanted = torch.tensor(tokens[:-1])
        best, found = 0, States()
        for held, states in self._rows:
            length = min(len(held), len(wanted))
            differing = (held[:length] != wanted[:length]).nonzero()
            shared = int(differing[0]) if len(differing) else length
            if shared > best:
                best, found = shared, states
        return best, found

    def filled(self, cache: DynamicCache, prompts: Sequence[Sequence[int]]) -> int:
        """Fill an empty cache with the first columns of a batch padded on the left; returns their number.

        A batch is computed as a rectangle, so the row with the most tokens left to compute decides how many columns can
        be filled for all rows.
        """
        hits = [self.longest(prompt) for prompt in prompts]
        computed = max(len(prompt) - shared for prompt, (shared, _) in zip(prompts, hits, strict=True))
        columns = max(map(len, prompts)) - computed
        if columns <= 0:
            return 0
        _, example = max(hits, key=lambda hit: hit[0])
        for layer, kinds in enumerate(example):
            filled = [kind.new_zeros(len(prompts), kind.shape[0], columns, kind.shape[2]) for kind in kinds]
            for row, (prompt, (_, states)) in enumerate(zip(prompts, hits, strict=True)):
                if (reused := len(prompt) - computed) > 0:
                    for target, source in zip(filled, states[layer], strict=True):
                        target[row, :, columns - reused :] = source[:, :reused]
            cache.update(*filled, layer)
        return columns


def reusable(cache: DynamicCache) -> bool:
    """Whether every layer keeps all its keys and values (sliding windows and recurrent states cannot be reused)."""
    return all(isinstance(layer, RoomyLayer) for layer in cache.layers)
