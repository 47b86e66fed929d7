"""Signs of failing self-evolution of each model, with answers that show them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evolution_jobs.contract.rows import Answer
from evolution_jobs.metrics.stock_phrases import holds_stock_phrase
from evolution_jobs.metrics.style import asks, holds_list, normalised, self_repeat, shape
from evolution_jobs.unspaced import count_words

from .facts import Facts
from .scores import StoredSign
from .words import listed

EXAMPLES = 3
"""Answers that are shown for a sign that is present."""
Strength = Callable[[str], float]
"""How much an answer shows a sign; 0 if it does not."""


@dataclass(frozen=True)
class Sign:
    """One sign in every model that was looked at."""

    name: str
    threshold: str
    models: Sequence[tuple[int, bool, str]]
    """Iteration, whether the sign is present, and the sentence that says so."""
    openings: Sequence[str]
    """Openings that are over-represented in the newest model, each with its count."""
    answers: Sequence[Answer]
    """Answers of the newest model that show the sign, if it is present."""

    @property
    def present(self) -> bool:
        """Whether the newest model shows it."""
        return self.models[-1][1]

    @property
    def elsewhere(self) -> str:
        """Earlier models that show it, if the newest does not: `M0 and M1`."""
        return "" if self.present else listed([f"M{number}" for number, present, _ in self.models if present])

    @property
    def sentence(self) -> str:
        """What is true of the newest model."""
        return self.models[-1][2]


def signs(facts: Facts) -> list[Sign]:
    """Every sign that was looked for; those that the newest model shows come first."""
    found: dict[str, list[tuple[int, StoredSign]]] = {}
    for iteration, scores in sorted(facts.scores.items()):
        for each in scores.signatures:
            found.setdefault(each.name, []).append((iteration, each))
    made = [_sign(name, models, facts) for name, models in found.items()]
    return sorted(made, key=lambda sign: not sign.present)


def _sign(name: str, models: Sequence[tuple[int, StoredSign]], facts: Facts) -> Sign:
    iteration, newest = models[-1]
    answers = facts.answers.get(f"M{iteration}", ()) if newest.present else ()
    return Sign(
        name,
        newest.threshold,
        [(number, each.present, each.sentence) for number, each in models],
        newest.examples,
        examples(name, newest, answers),
    )


def examples(name: str, sign: StoredSign, answers: Sequence[Answer]) -> list[Answer]:
    """The answers that show a sign most; none if it is a sign of another version."""
    strength = _strength(name, sign, [each.answer for each in answers])
    if strength is None:
        return []
    shown = [(strength(each.answer), each) for each in answers]
    ranked = sorted(((much, each) for much, each in shown if much > 0), key=lambda pair: -pair[0])
    return [each for _, each in ranked[:EXAMPLES]]


def _strength(name: str, sign: StoredSign, texts: Sequence[str]) -> Strength | None:
    """How a sign is looked for in one answer. `texts` are all answers, for signs that only several show together."""
    alike, shapes = Counter(map(normalised, texts)), Counter(map(shape, texts))
    common = shapes.most_common(1)[0][0] if shapes else ""
    openings = [_closed(each.rpartition(" (")[0]) for each in sign.examples]
    more = sign.value > sign.human
    known: dict[str, Strength] = {
        "stock_phrase_rate": holds_stock_phrase,
        "self_repeat": lambda text: self_repeat(text.lower().split()),
        "duplicate_rate": lambda text: alike[normalised(text)] - 1,
        "shape_share": lambda text: shape(text) == common,
        "list_rate": holds_list,
        "question_rate": lambda text: asks(text) is more,
        "length_words": count_words,
        "openings": lambda text: any(_closed(text).startswith(each) for each in openings if each),
    }
    return known.get(name)


def _closed(text: str) -> str:
    """Without white space: openings are listed word by word, and "I'm" is two of them."""
    return "".join(text.lower().split())
