"""Contexts: prefixes of a dialogue that end with the seeker's turn and wait for the supporter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..contract.rows import Context, Dialogue
from .draw import draw


class Place(NamedTuple):
    """A supporter turn that is to be answered."""

    dialogue: Dialogue
    position: int
    """Of the awaited turn in the dialogue, from 0; also the number of turns before it."""

    @property
    def id(self) -> str:
        """The context's id."""
        return f"{self.dialogue.id}-{self.position}"

    def context(self) -> Context:
        """The context as a row."""
        awaited = self.dialogue.turns[self.position]
        return Context(
            id=self.id,
            dialogue=self.dialogue.id,
            turns=self.dialogue.turns[: self.position],
            human=awaited.text,
            strategy=awaited.strategy,
        )


def places(dialogue: Dialogue, min_history: int) -> list[Place]:
    """Every supporter turn with at least `min_history` turns before it (paper: 3)."""
    return [
        Place(dialogue, position)
        for position, turn in enumerate(dialogue.turns)
        if turn.role == "supporter" and position >= min_history
    ]


def choose(
    dialogues: Iterable[Dialogue],
    min_history: int,
    per_dialogue: int | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> list[Place]:
    """Contexts in the order of the dialogues; at most `per_dialogue` of each and `samples` in all, drawn by seed.

    The draw of a context depends on the seed and its id alone. Dialogues are different from one another.
    """
    return draw(
        (
            place
            for dialogue in dialogues
            for place in draw(places(dialogue, min_history), per_dialogue, seed, lambda place: place.id)
        ),
        samples,
        seed,
        lambda place: place.id,
    )
