"""Contexts: prefixes of a dialogue that end with the seeker's turn and wait for the supporter."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from ..contract.rows import Context, Dialogue
from .draw import draw


def contexts(
    dialogues: Sequence[Dialogue],
    min_history: int,
    per_dialogue: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    longest: int | None = None,
    sets: Mapping[str, str] | None = None,
    unseen: Collection[str] = (),
    labels: Mapping[str, dict[str, str]] | None = None,
) -> Iterator[Context]:
    """Contexts in the order of the dialogues; at most `per_dialogue` of each and `samples` in all, drawn by seed.

    A context has at most `longest` turns, the last ones. Otherwise a chat of thousands of turns would fill the disk with
    its prefixes. `sets` has the name of a dialogue's test set, for dialogues that are in one with a name; `unseen` are the
    names of those that are never trained on, and `labels` has each dialogue's labels.

    The draw of a context depends only on the seed and its id. All dialogues are different. Only ids are kept in memory:
    the prefixes of a long dialogue are together many times as long as the dialogue.
    """
    ids = (
        id_
        for dialogue in dialogues
        for id_ in draw(
            [_id(dialogue, position) for position in positions(dialogue, min_history)], per_dialogue, seed, str
        )
    )
    drawn = set(draw(ids, samples, seed, str))
    for dialogue in dialogues:
        for position in positions(dialogue, min_history):
            if _id(dialogue, position) in drawn:
                name = (sets or {}).get(dialogue.id)
                yield _context(dialogue, position, longest).model_copy(
                    update={
                        "set": name,
                        "never_trained_on": True if name in unseen else None,
                        "labels": (labels or {}).get(dialogue.id),
                    }
                )


def positions(dialogue: Dialogue, min_history: int) -> list[int]:
    """Positions of the supporter's turns after at least `min_history` turns (paper: 3), counted from 0.

    A turn that is history only is no context: its text must be no one's example.
    """
    return [
        position
        for position, turn in enumerate(dialogue.turns)
        if turn.role == "supporter" and turn.learnt is not False and position >= min_history
    ]


def _id(dialogue: Dialogue, position: int) -> str:
    return f"{dialogue.id}-{position}"


def _context(dialogue: Dialogue, position: int, longest: int | None) -> Context:
    awaited = dialogue.turns[position]
    # An even start is the seeker's turn.
    start = max(0, position - longest + 1) // 2 * 2 if longest else 0
    return Context(
        id=_id(dialogue, position),
        dialogue=dialogue.id,
        turns=dialogue.turns[start:position],
        human=awaited.text,
        strategy=awaited.strategy,
    )
