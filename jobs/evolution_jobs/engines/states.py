"""Attention states of the current batch, and of recent rows, because later prompts often extend them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from .prefill import shared_prefix

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

    def take(self, parts: Sequence[tuple[RoomyLayer, Sequence[int]]], width: int) -> None:
        """Fill this empty layer with the last `width` columns of rows of others, padded on the left."""
        rows, example = sum(len(chosen) for _, chosen in parts), parts[0][0]
        self.lazy_initialization(example.keys, example.values)
        roomy = []
        for kind in ("keys", "values"):
            first = getattr(example, kind)
            whole = first.new_empty(rows, first.shape[1], width + _ROOM, first.shape[3])
            start = 0
            for layer, chosen in parts:
                states = getattr(layer, kind)[:, :, -width:]
                end, before = start + len(chosen), width - states.shape[-2]
                whole[start:end, :, :before] = 0
                for place, row in enumerate(chosen, start):
                    whole[place, :, before:width] = states[row]
                start = end
            roomy.append(whole)
        self._room = roomy[0], roomy[1]
        self.keys, self.values = (whole[:, :, :width] for whole in roomy)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows of the batch."""
        super().batch_select_indices(indices)
        self._room = None


def empty_cache(config: PreTrainedConfig) -> DynamicCache:
    """A cache for the model's layers, with room to grow in layers that keep all their keys and values."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def joined(cache: DynamicCache, parts: Sequence[tuple[DynamicCache, Sequence[int]]], width: int) -> None:
    """Fill an empty cache with the last `width` columns of rows of others, padded on the left. Empties the others."""
    for index, layer in enumerate(cache.layers):
        layer.take([(part.layers[index], rows) for part, rows in parts], width)
        for part, _ in parts:
            part.layers[index] = RoomyLayer()


class Prefixes:
    """Tokens and states of recent rows, up to `capacity` tokens in all; the oldest row is dropped first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._rows: deque[tuple[list[int], States]] = deque()

    def add(self, tokens: list[int], cache: DynamicCache, row: int) -> None:
        """Keep a row of a batch padded on the left; `tokens` are those that have states in the cache.

        It takes the place of rows that it extends.
        """
        if len(tokens) > self.capacity:
            return
        states = [
            (layer.keys[row, :, -len(tokens) :].clone(), layer.values[row, :, -len(tokens) :].clone())
            for layer in cache.layers
        ]
        kept = [held for held in self._rows if held[0] != tokens[: len(held[0])]]
        self._rows = deque([*kept, (tokens, states)])
        excess = sum(len(held) for held, _ in self._rows) - self.capacity
        while excess > 0:
            excess -= len(self._rows.popleft()[0])

    def longest(self, tokens: list[int]) -> Hit:
        """The longest prefix that some kept row shares; never all tokens, because the last one's logits are needed."""
        wanted, best, found = tokens[:-1], 0, States()
        for held, states in self._rows:
            if held[: best + 1] == wanted[: best + 1]:
                best, found = shared_prefix(held, wanted), states
        return Hit(best, found)


class Hit(NamedTuple):
    """States that a prompt can reuse."""

    tokens: int
    """Length of the shared prefix; 0 if there is none."""
    states: States
    """Of the row that shares it, which may be longer."""


def filled(cache: DynamicCache, prompts: Sequence[Sequence[int]], hits: Sequence[Hit]) -> int:
    """Fill an empty cache with the first columns of a batch padded on the left; returns their number.

    A batch is computed as a rectangle, so the row with the most tokens left to compute decides how many columns can be
    filled for all rows.
    """
    computed = max(len(prompt) - hit.tokens for prompt, hit in zip(prompts, hits, strict=True))
    columns = max(map(len, prompts)) - computed
    if columns <= 0:
        return 0
    example = max(hits, key=lambda hit: hit.tokens).states
    for layer, kinds in enumerate(example):
        both = [kind.new_zeros(len(prompts), kind.shape[0], columns, kind.shape[2]) for kind in kinds]
        for row, (prompt, hit) in enumerate(zip(prompts, hits, strict=True)):
            if (reused := len(prompt) - computed) > 0:
                for target, source in zip(both, hit.states[layer], strict=True):
                    target[row, :, columns - reused :] = source[:, :reused]
        cache.update(*both, layer)
    return columns


def reusable(cache: DynamicCache) -> bool:
    """Whether every layer keeps all its keys and values (sliding windows and recurrent states cannot be reused)."""
    return all(isinstance(layer, RoomyLayer) for layer in cache.layers)
