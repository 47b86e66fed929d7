"""Marks of chat data that an answer is history only and must not be learnt. Pure.

OpenAI, Mistral and Together write `weight: 0`, others `train`, `trainable` or `training: false` (Axolotl), `loss: false`
(ms-swift), `loss_mask: 0` or `masked: true` (torchtune).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .fields import BadRow

_LEARNT = ("weight", "train", "trainable", "training", "train_on_turn", "loss_mask")
_LOOSE = ("loss", "learn", "learnable")
"""Names that mean other things as well: only true and false count."""
_MASKED = ("mask", "masked")
"""True means not learnt."""
_PARTS = "train_detail"


def unlearnt(turn: Mapping[str, Any], where: str, strict: bool) -> bool:
    """Whether a supporter's turn is marked as history only.

    Raises BadRow for a mark that says neither, such as a weight of 0.5, if `strict`: in layouts where these names can
    mean nothing else. A part of a turn cannot be marked (`train_detail`).
    """
    if strict and turn.get(_PARTS):
        raise BadRow(
            f"{where}: {_PARTS} marks parts of a turn, which is not supported: use weight: 0 for the whole turn"
        )
    for name in _LEARNT:
        value = turn.get(name)
        if value is None or (isinstance(value, bool | int | float) and value in (0, 1)):
            continue
        if strict:
            raise BadRow(f"{where}: {name} {str(value)[:40]!r} is not supported: write 0 (history only) or 1 (learnt)")
    flags = [turn.get(name) for name in _LEARNT] + [turn[name] for name in _LOOSE if isinstance(turn.get(name), bool)]
    off = any(isinstance(flag, bool | int | float) and flag == 0 for flag in flags)
    return off or any(turn.get(name) is True or turn.get(name) == 1 for name in _MASKED)


def marked_turns(record: Mapping[str, Any], count: int) -> list[bool]:
    """Which of a record's `count` turns the record itself marks: by one mark for all, or by a list with one for each."""
    marks = [False] * count
    for name in (*_LEARNT, *_LOOSE, *_MASKED):
        value = record.get(name)
        if isinstance(value, list) and len(value) == count:
            marks = [old or unlearnt({name: each}, name, strict=False) for old, each in zip(marks, value, strict=True)]
        elif not isinstance(value, list) and unlearnt({name: value}, name, strict=False):
            marks = [True] * count
    return marks
