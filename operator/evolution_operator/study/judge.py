"""Agreement of a judge with a study's raters: on the pairs that both have seen, who is preferred. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.rows import Outcome, Verdict
from evolution_jobs.metrics.bootstrap import Floats, bootstrap

from .records import Ballots, Choice

CHOICES: tuple[Choice, ...] = ("first", "second", "tie")
OUTCOMES: dict[Outcome, int] = {"win": 1, "tie": 0, "loss": -1}
Pair = tuple[str, str, str]
"""Context, and the texts of two answers to it."""


def agreement_with_judge(ballots: Ballots, raters: Collection[int], verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """On how many pairs the judge says what the majority of these raters says: percent and Cohen's kappa.

    A pair is known by its context and both texts, so names of models do not matter. The majority is the most frequent
    choice in the main question; if two are as frequent, a tie. `items` is 0 if nothing is in both. Raises PermanentError
    `StudyInput` if two verdicts on one pair differ.
    """
    judged = _by_pair(verdicts)
    votes: dict[int, Counter[Choice]] = defaultdict(Counter)
    for vote in ballots.votes:
        if vote.question == 0 and vote.rater in raters and ballots.items[vote.item].kind == "pair":
            votes[vote.item][vote.choice] += 1
    people, judge, dialogues = [], [], []
    for number, choices in votes.items():
        item = ballots.items[number]
        preference = judged.get(_pair(item.context, item.first_text, item.second_text))
        if preference is None:
            continue
        people.append(_most_frequent(choices))
        judge.append(_choice(preference))
        dialogues.append(item.dialogue)
    found: dict[str, Any] = {"items": len(people), "dialogues": len(set(dialogues))}
    if not people:
        return found
    table = np.zeros((len(people), len(CHOICES) ** 2))
    for row, (theirs, its) in enumerate(zip(people, judge, strict=True)):
        table[row, len(CHOICES) * CHOICES.index(theirs) + CHOICES.index(its)] = 1
    for name, figure in (("agreement", _share), ("kappa", _kappa)):
        estimate = bootstrap(table, figure, dialogues)
        bounds = estimate.interval()
        found |= {name: estimate.value, f"{name}Interval": None if bounds is None else list(bounds)}
    return found


def _by_pair(verdicts: Iterable[Verdict]) -> dict[Pair, int]:
    """The verdicts by pair, in both orders of its texts: above 0 if the first text is preferred, below if the second is."""
    judged: dict[Pair, int] = {}
    for verdict in verdicts:
        if verdict.overall is None:
            continue
        pair = _pair(verdict.context, verdict.answer, verdict.other)
        preference = OUTCOMES[verdict.overall]
        if judged.setdefault(pair, preference) != preference:
            raise PermanentError(
                "StudyInput",
                f"--judge: two verdicts on the same answers to {verdict.context!r} differ: name the files of one judge only, or "
                "leave out one that has this pair",
            )
        judged[pair[0], pair[2], pair[1]] = -preference
    return judged


def _pair(context: str, first: str, second: str) -> Pair:
    return context, _text(first), _text(second)


def _text(text: str) -> str:
    return " ".join(text.split())


def _most_frequent(choices: Counter[Choice]) -> Choice:
    most = max(choices.values())
    first, *others = [choice for choice, count in choices.items() if count == most]
    return "tie" if others else first


def _choice(preference: int) -> Choice:
    if preference == 0:
        return "tie"
    return "first" if preference > 0 else "second"


def _share(sums: Floats) -> Floats:
    """Percent of the pairs with equal choices, from counts (corpora, choices of people x of the judge)."""
    shares: Floats = 100 * _agreed(sums) / sums.sum(axis=1)
    return shares


def _kappa(sums: Floats) -> Floats:
    """Cohen's kappa (1960): agreement beyond what the shares of each choice give by chance. 0 if all choices are one."""
    total = sums.sum(axis=1)
    counts = sums.reshape(len(sums), len(CHOICES), len(CHOICES))
    chance = (counts.sum(axis=2) * counts.sum(axis=1)).sum(axis=1) / total**2
    return np.where(chance < 1, (_agreed(sums) / total - chance) / np.maximum(1 - chance, 1e-12), 0.0)


def _agreed(sums: Floats) -> Floats:
    agreed: Floats = sums[:, :: len(CHOICES) + 1].sum(axis=1)
    return agreed
