"""Split into training and validation by conversation (paper: 9:1): a split by sample would leak conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..contract.rows import Dialogue
from .draw import rank


def split(
    dialogues: Sequence[Dialogue], fraction: float, seed: int, group: Mapping[str, str] | None = None
) -> tuple[list[Dialogue], list[Dialogue]]:
    """Training and validation dialogues, each in the given order.

    Equal dialogues go to one side, and so do dialogues with the same name in `group` (dialogue id to name). Whole groups
    are drawn by seed until validation holds `fraction` of the dialogues, at least one; the last group may exceed that.
    At least one group stays for training.

    Raises ValueError if there are fewer than two groups.
    """
    names = [(group or {}).get(each.id, each.id) for each in dialogues]
    order = sorted(set(names), key=lambda name: rank(seed, name))
    if len(order) < 2:
        raise ValueError("a split needs at least two different dialogues")
    sizes = dict.fromkeys(order, 0)
    for name in names:
        sizes[name] += 1
    wanted = max(1, round(fraction * len(dialogues)))
    held: set[str] = set()
    count = 0
    for name in order[:-1]:
        if count >= wanted:
            break
        held.add(name)
        count += sizes[name]
    train = [each for each, name in zip(dialogues, names, strict=True) if name not in held]
    validation = [each for each, name in zip(dialogues, names, strict=True) if name in held]
    return train, validation
