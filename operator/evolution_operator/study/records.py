"""What a study consists of: its questions, items, raters' orders and votes. Plain values without I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evolution_jobs.contract.document import Document

HUMAN = "human"
"""The name under which the data set's own answer takes part."""
SCRAMBLED = "scrambled"
"""What stands beside the human answer in an attention check."""

Choice = Literal["first", "second", "tie"]
"""A vote in terms of the item's models, wherever they were shown."""
Side = Literal["a", "b", "tie"]
"""A vote as the rater gave it: A is left, or above on a narrow screen."""
Kind = Literal["pair", "check"]

MAX_FAILED_CHECKS = 1
"""One slip is no sign of a careless rater. Of four checks, a rater who guesses fails two or more in 89 of 100 cases."""
MAIN_QUESTION = "Which answer would help this person more?"
CRITERIA: Mapping[str, str] = {
    "empathy": "Which answer understands better how this person feels?",
    "helpfulness": "Which answer gives this person more to work with?",
    "personalisation": "Which answer fits this person’s own situation better?",
}
"""Further questions that `--criteria` names."""


class Utterance(Document):
    """One turn of a conversation, as a rater sees it."""

    role: Literal["seeker", "supporter"]
    text: str


class Study(Document):
    """What holds for the whole study. Stored as JSON in its file."""

    title: str
    introduction: list[str]
    """Paragraphs of the first page, in place of our own; empty if ours are shown."""
    contact: str
    """Whom raters may ask. May be empty."""
    questions: list[str]
    """The first one is the main one; attention checks count on it."""
    models: list[str]
    seed: int
    created: float
    """Seconds since 1970."""
    equal_left_out: int
    """Pairs that were not drawn because both answers are the same."""


@dataclass(frozen=True)
class Sample:
    """A context, and what each model answered."""

    id: str
    dialogue: str
    turns: Sequence[Utterance]
    earlier: bool
    """Whether the conversation has turns before these."""
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Item:
    """Two answers to one context. Raters never see `kind`, `first` and `second`."""

    kind: Kind
    context: str
    dialogue: str
    turns: Sequence[Utterance]
    earlier: bool
    first: str
    """Name of a model, or HUMAN."""
    second: str
    first_text: str
    second_text: str


@dataclass(frozen=True)
class Place:
    """An item in a rater's order."""

    item: int
    """Its number in the study, from 0."""
    swapped: bool
    """The second answer is shown as A."""


@dataclass(frozen=True)
class Vote:
    """One rater's answer to one question about one item."""

    rater: int
    position: int
    item: int
    question: int
    choice: Choice
    swapped: bool
    at: float
    seconds: float | None
    """From the page to the vote. None if the page was not opened in this program."""
    changed: bool
    """The rater came back and voted again."""


@dataclass(frozen=True)
class Rater:
    """How far a rater is."""

    id: int
    """From 1."""
    started: bool
    places: int
    open: int | None
    """The first position, from 1, with neither votes nor a skip. None if there is none."""
    done: int
    skipped: int


@dataclass(frozen=True)
class Ballots:
    """All that is known of a study at one moment."""

    study: Study
    items: Sequence[Item]
    raters: Sequence[Rater]
    votes: Sequence[Vote]


def choice_of(side: Side, swapped: bool) -> Choice:
    """A rater's vote in terms of the models."""
    if side == "tie":
        return "tie"
    return "first" if (side == "a") != swapped else "second"


def side_of(choice: Choice, swapped: bool) -> Side:
    """The inverse of `choice_of`."""
    if choice == "tie":
        return "tie"
    return "a" if (choice == "first") != swapped else "b"
