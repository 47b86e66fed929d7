"""Signs of failing self-evolution in a model's answers, each against the human answers to the same contexts. Pure.

arXiv 2505.16610 names stock phrases, verbosity and answers that become alike. A sign is present if the model differs from
the humans by more than its threshold and the 95 % interval of the difference excludes zero, so a few odd answers raise no
alarm. Openings are tested one by one: log-odds with an informative Dirichlet prior (Monroe et al., Political Analysis 2008).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..contract.document import Document
from ..printable import printable
from .answered import Answered
from .measures import BY_NAME

OPENING_WORDS = 3
OPENING_Z = 3.0
"""Standard errors by which an opening must be over-represented."""
OPENING_SHARE = 5.0
"""Per cent of the answers that must have it."""
PRIOR = 0.1
"""Weight of the prior: both sides' counts together, as if a tenth as many answers had been seen before."""
LISTED = 3
"""Openings that are listed."""


class Signature(Document):
    """One sign, present or not."""

    name: str
    value: float
    human: float
    """Of the human answers."""
    threshold: str
    """What makes it present, in words."""
    present: bool
    sentence: str
    """For people."""
    examples: list[str] = []


@dataclass(frozen=True)
class _Sign:
    """A figure that must not be far from that of the human answers."""

    measure: str
    margin: float
    """In the figure's own unit; for `ratio`, how many times the human figure."""
    side: Literal["above", "either", "ratio"]
    says: str
    """A sentence with `{value}` and `{human}`."""


_SIGNS = (
    _Sign("stock_phrase_rate", 10, "above", "{value:.0f} % of the answers have a stock phrase, of the human ones {human:.0f} %"),
    _Sign("self_repeat", 5, "above", "{value:.0f} % of the 4-grams repeat an earlier one of the same answer, in human answers {human:.0f} %"),
    _Sign("duplicate_rate", 5, "above", "{value:.0f} % of the answers repeat another answer word for word, of the human ones {human:.0f} %"),
    _Sign("shape_share", 20, "above", "{value:.0f} % of the answers have one and the same sequence of statements and questions, of the human ones {human:.0f} %"),
    _Sign("list_rate", 5, "above", "{value:.0f} % of the answers contain a list, of the human ones {human:.0f} %"),
    _Sign("question_rate", 20, "either", "{value:.0f} % of the answers ask something, of the human ones {human:.0f} %"),
    _Sign("length_words", 1.5, "ratio", "an answer has {value:.0f} words, a human one {human:.0f}"),
)  # fmt: skip


def signatures(rows: Answered) -> list[Signature]:
    """Every sign that the rows allow to look for."""
    found = [_sign(sign, rows) for sign in _SIGNS if BY_NAME[sign.measure].defined(rows)]
    return [*found, openings(rows)]


def _sign(sign: _Sign, rows: Answered) -> Signature:
    measure = BY_NAME[sign.measure]
    used = measure.used(rows)
    ours, theirs = measure.estimate(rows), measure.estimate(used.by_humans)
    difference = ours.minus(theirs)
    bounds = difference.interval()
    shown = bounds is not None and not bounds[0] <= 0 <= bounds[1]
    beyond = {
        "above": difference.value > sign.margin,
        "either": abs(difference.value) > sign.margin,
        "ratio": ours.value > sign.margin * theirs.value,
    }[sign.side]
    unit = "points" if measure.kind.unit == "percent" else measure.kind.unit
    words = {
        "above": f"more than {sign.margin:g} {unit} above the human answers",
        "either": f"more than {sign.margin:g} {unit} from the human answers",
        "ratio": f"more than {sign.margin:g} times the human answers",
    }[sign.side]
    sentence = sign.says.format(value=ours.value, human=theirs.value)
    if dropped := len(rows) - len(used):
        sentence += (
            f"; {dropped} {'answers were cut off and do' if dropped > 1 else 'answer was cut off and does'} not count"
        )
    return Signature(
        name=sign.measure,
        value=ours.value,
        human=theirs.value,
        threshold=f"{words}, and the interval of the difference excludes zero",
        present=shown and beyond,
        sentence=sentence,
    )


def openings(rows: Answered) -> Signature:
    """The share of answers that begin with an opening which is over-represented against the human answers."""
    ours, theirs = (Counter(map(_opening, words)) for words in (rows.words, rows.human_words))
    for counts in (ours, theirs):
        # Answers too short for an opening. On one side only, they would make the other side's openings look frequent.
        counts.pop("", None)
    least = OPENING_SHARE / 100 * len(rows)
    over = {
        opening: count
        for opening, count in ours.most_common()
        if count >= max(least, 2) and log_odds_z(opening, ours, theirs) >= OPENING_Z
    }
    share, human = (100 * sum(counts[each] for each in over) / len(rows) for counts in (ours, theirs))
    examples = [f"{opening} ({count} of {len(rows)}, human {theirs[opening]})" for opening, count in over.items()]
    named = ", ".join(f'"{opening}"' for opening in list(over)[:LISTED])
    sentence = (
        f"{share:.0f} % of the answers begin with {named}, of the human ones {human:.0f} %"
        if over
        else "no opening is over-represented against the human answers"
    )
    return Signature(
        name="openings",
        value=share,
        human=human,
        threshold=f"an opening of {OPENING_WORDS} words in at least {OPENING_SHARE:g} % of the answers, over-represented by {OPENING_Z:g} standard errors",
        present=bool(over),
        sentence=sentence,
        examples=examples[:LISTED],
    )


def log_odds_z(item: str, ours: Counter[str], theirs: Counter[str]) -> float:
    """By how many standard errors an item is more frequent in `ours`. The prior is a part of both counts together."""
    together, total = ours[item] + theirs[item], PRIOR * (ours.total() + theirs.total())
    if together in (0, ours.total() + theirs.total()):
        return 0.0
    mine, other = (counts[item] + PRIOR * together for counts in (ours, theirs))
    delta = math.log(mine / (ours.total() + total - mine)) - math.log(other / (theirs.total() + total - other))
    return delta / math.sqrt(1 / mine + 1 / other)


def _opening(words: Sequence[str]) -> str:
    # Openings are shown in messages and on the closing page.
    return printable(" ".join(words[:OPENING_WORDS])) if len(words) >= OPENING_WORDS else ""
