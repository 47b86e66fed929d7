"""From the scores of several answers to one context to the best and the worst of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..contract.rows import Ranking, Reject, Response, Turn
from .filters import normalise, usable


@dataclass(frozen=True)
class ToRank:
    """A context and the answers that are to be ranked, at least two."""

    id: str
    turns: Sequence[Turn]
    answers: Mapping[str, str]
    """By name, as `Ranking` has them."""


@dataclass(frozen=True)
class Scored:
    """What a ranker says of the answers to one context."""

    id: str
    scores: Mapping[str, float] = field(default_factory=dict)
    """Of every answer, finite, higher is better. Only scores of one context are compared with each other."""
    truncated: bool = False
    """Whether the ranker saw the context without its oldest turns."""
    fault: str | None = None
    """Why there are no scores. The row is dropped for it."""
    judged: Mapping[str, int] = field(default_factory=dict)
    """Of a judge: how many pairs it has compared (`compared`), and in how many it failed, by how."""


class Ranker(Protocol):
    """Whatever tells good answers from bad ones: a reward model scores each, a judge compares them and counts wins."""

    def scores(self, asked: Sequence[ToRank]) -> Iterator[list[Scored]]:
        """The scores of each context once, in any order; a list each time that some are there.

        Who asks for the next list has made this one durable.
        """
        ...


def eligible(answers: Mapping[str, Response]) -> dict[str, str]:
    """The answers that can be a side of a pair, as they are trained on; of those that say the same, the first."""
    kept: dict[str, str] = {}
    said: set[str] = set()
    for name, answer in answers.items():
        text = usable(answer, name)
        if isinstance(text, str) and (plain := normalise(text)) not in said:
            kept[name] = text
            said.add(plain)
    return kept


def none_to_rank(id: str, answers: Mapping[str, Response]) -> Reject:
    """The reason to drop a row with fewer than two answers to rank: the first one's fault, or that all say the same."""
    for name, answer in answers.items():
        if isinstance(fault := usable(answer, name), Reject):
            return fault
    return Reject(id=id, reason="equal", detail=f"the {len(answers)} answers all say the same")


def rank(scores: Mapping[str, float]) -> Ranking:
    """The ranking by these scores. Of answers with the same score, the first counts."""
    best, worst = max(scores, key=scores.__getitem__), min(scores, key=scores.__getitem__)
    return Ranking(scores=dict(scores), chosen=best, rejected=worst)


def too_close(id: str, ranking: Ranking, margin: float) -> Reject | None:
    """The reason to drop a row whose best and worst answer differ by less than the margin, or not at all."""
    if 0 < ranking.margin >= margin:
        return None
    detail = f"the best and the worst of {len(ranking.scores)} answers differ by {ranking.margin:.6g}"
    return Reject(id=id, reason="margin_small", detail=detail)
