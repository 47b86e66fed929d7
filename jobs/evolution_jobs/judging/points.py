"""From a judge's verdicts on every two of several answers to a score for each answer: its share of points. Pure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from ..contract.rows import Message, Outcome
from ..preference.ranking import Scored, ToRank
from .rubric import OVERALL, messages, read_verdict
from .verdicts import DETAIL_LENGTH, Said, settle

POINTS: Mapping[Outcome, float] = {"win": 1.0, "tie": 0.5, "loss": 0.0}

Failure = Literal["flipped", "unreadable", "refused"]
"""Why a comparison is a tie although the judge named none: another winner in each order, no verdict, no answer."""


@dataclass(frozen=True)
class Question:
    """Two answers to one context, by name, in the order in which the judge reads them."""

    asked: ToRank
    a: str
    b: str

    @property
    def id(self) -> str:
        """Names the texts: if an answer is sampled anew and differs, it is compared anew."""
        texts = json.dumps([self.asked.answers[self.a], self.asked.answers[self.b]])
        return f"{self.asked.id}.{hashlib.sha256(texts.encode()).hexdigest()[:32]}.compared"

    @property
    def chat(self) -> list[Message]:
        """What the judge is asked."""
        return messages(self.asked.turns, self.asked.answers[self.a], self.asked.answers[self.b])


def questions(asked: ToRank) -> Iterator[Question]:
    """Every two answers in both orders: of n answers n (n - 1) questions."""
    for a, b in combinations(asked.answers, 2):
        yield Question(asked, a, b)
        yield Question(asked, b, a)


def scored(asked: ToRank, said: Mapping[str, Said]) -> Scored:
    """Each answer's share of the points of its comparisons: 1 for a win, a half for a tie, 0 for a defeat.

    `said` has the judge's answer to each question, by its id. If the orders disagree or one has no verdict, it is a tie. If
    no comparison has a verdict, there are no scores.
    """
    points = dict.fromkeys(asked.answers, 0.0)
    failed: Counter[Failure] = Counter()
    detail = ""
    pairs = list(combinations(asked.answers, 2))
    for a, b in pairs:
        orders = said[Question(asked, a, b).id], said[Question(asked, b, a).id]
        outcome, failure = _settled(*orders)
        points[a] += POINTS[outcome]
        points[b] += 1 - POINTS[outcome]
        if failure:
            failed[failure] += 1
            detail = detail or next((each.refusal for each in orders if each.refusal), orders[0].text[-DETAIL_LENGTH:])
    counts = {"compared": len(pairs), **{name: failed[name] for name in ("flipped", "unreadable", "refused")}}
    if failed["unreadable"] + failed["refused"] == len(pairs):
        return Scored(
            asked.id, fault=f"the judge gave no verdict on any of {len(pairs)} pairs: {detail}", judged=counts
        )
    shares = {name: each / (len(points) - 1) for name, each in points.items()}
    return Scored(asked.id, shares, judged=counts)


def _settled(as_a: Said, as_b: Said) -> tuple[Outcome, Failure | None]:
    """The outcome for the answer that was read as A, then as B, and why it is a tie if the judge named none."""
    if as_a.refusal or as_b.refusal:
        return "tie", "refused"
    first, second = read_verdict(as_a.text), read_verdict(as_b.text)
    if first is None or second is None:
        return "tie", "unreadable"
    flipped = first[OVERALL] == second[OVERALL] != "tie"
    return settle(first[OVERALL], second[OVERALL]), "flipped" if flipped else None
