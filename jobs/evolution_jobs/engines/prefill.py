"""In what order prompts are computed, so that no token is computed twice and little is padding. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

Prompt = Sequence[int]

WORTH = 16
"""Tokens that a prompt must save to wait for another one: each round costs one more forward pass."""


def rounds(prompts: Sequence[Prompt], known: Callable[[int], int]) -> Iterator[list[list[int]]]:
    """Indices of the prompts in groups, and the groups in rounds.

    A prompt that shares more with a longer one than is known of it (a system prompt, the history of one dialogue) is
    left to a later round, when the longer one's states are there. The prompts of a group have about as many tokens left
    to compute. `known(index)` is the number of leading tokens whose states are there; it is asked anew in each round.
    """
    left = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    while left:
        hits = {index: known(index) for index in left}
        now = [
            index
            for place, index in enumerate(left)
            if not _can_wait(prompts[index], [prompts[longer] for longer in left[:place]], hits[index])
        ]
        yield list(_alike({index: len(prompts[index]) - hits[index] for index in now}))
        left = [index for index in left if index not in set(now)]


def _can_wait(prompt: Prompt, longer: Sequence[Prompt], known: int) -> bool:
    saved = known + WORTH
    return saved < len(prompt) and any(other[:saved] == prompt[:saved] for other in longer)


def _alike(remaining: dict[int, int]) -> Iterator[list[int]]:
    """Groups in which padding is at most an eighth of what is computed, or a few tokens."""
    group: list[int] = []
    for index in sorted(remaining, key=lambda index: -remaining[index]):
        if group and remaining[group[0]] - remaining[index] > max(8, remaining[group[0]] // 8):
            yield group
            group = []
        group.append(index)
    yield group


def shared_prefix(one: Prompt, other: Prompt) -> int:
    """Length of the longest prefix that two token sequences share."""
    length = min(len(one), len(other))
    return next((place for place in range(length) if one[place] != other[place]), length)
