"""How many positions a model has: the longest sequence that it was made for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.errors import PermanentError

NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "max_seq_length")
"""Where a config.json has the positions, by kind of model. The first one counts."""
UNSTRETCHED = frozenset({"default", "llama3", "longrope", "su"})
"""Kinds of rotary scaling whose `max_position_embeddings` is the stretched length already."""


def longest(config: Mapping[str, Any]) -> int | None:
    """The positions by a config.json; None if it says nothing, or the model has no limit (ALiBi, state spaces).

    A sliding window is no limit: tokens beyond it are forgotten, not refused.
    """
    text = language_part(config)
    if text.get("alibi") is True or text.get("model_type") == "bloom":
        return None
    stated = next((text[name] for name in NAMES if _count(text.get(name))), None)
    if stated is None:
        return None
    return max([int(stated), *(_stretched(scaling, int(stated)) for scaling in _scalings(text))])


def language_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the language model, which a model with vision keeps apart."""
    part = config.get("text_config")
    return {**config, **part} if isinstance(part, dict) else config


def require_positions(field: str, length: int, positions: int | None) -> None:
    """Raise PermanentError `LengthSettings` if sequences of `length` tokens do not fit into a model's positions."""
    if positions is not None and length > positions:
        raise PermanentError("LengthSettings", too_long(field, length, positions))


def too_long(field: str, length: int, positions: int) -> str:
    """What to tell the user of a setting that exceeds the model's positions."""
    return f"{field} {length} exceeds the {positions} positions of the model: lower it"


def _scalings(text: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every description of rotary scaling; newer models have one for each kind of layer."""
    found = [text.get(name) for name in ("rope_scaling", "rope_parameters")]
    outer = [each for each in found if isinstance(each, dict)]
    inner = [each for one in outer for each in one.values() if isinstance(each, dict)]
    return [*outer, *inner]


def _stretched(scaling: Mapping[str, Any], stated: int) -> int:
    kind, factor = scaling.get("rope_type", scaling.get("type", "default")), scaling.get("factor")
    if kind in UNSTRETCHED or isinstance(factor, bool) or not isinstance(factor, int | float):
        return stated
    original = scaling.get("original_max_position_embeddings")
    return int(factor * (original if isinstance(original, int) else stated))


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
