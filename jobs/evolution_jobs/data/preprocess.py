"""Preprocessing of every conversation (arXiv 2505.16610, section 3): merge consecutive turns of one speaker, keep
seeker and supporter in alternation, drop greetings. Pure; everything left out is counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from ..chat.thoughts import without_blocks
from ..contract.manifest import canonical_digest
from ..contract.rows import Dialogue, Turn


class Preprocessed(NamedTuple):
    """A conversation's turns, and what happened to the others."""

    turns: list[Turn]
    """They alternate and begin with the seeker's; empty if nothing is left to learn from."""
    counts: Counter[str]
    """Turns merged into the one before (`merged`), left out (`empty`, `repeated`, `greeting`, `leading_supporter`), without
    their think block (`thoughts`), or learnt no more because they are now part of a turn that is history only (`unlearnt_by_merge`)."""


def preprocess(turns: Iterable[Turn]) -> Preprocessed:
    """Normalise white space, merge, drop repeated turns, leading greetings and turns before the seeker's first one.

    A turn that holds words of a turn marked as history only (`learnt: false`) is history only. Applying it twice changes
    nothing.
    """
    counts: Counter[str] = Counter()
    spoken: list[Turn] = []
    for turn in turns:
        text = said = " ".join(turn.text.split())
        if turn.role == "supporter" and (text := without_blocks(said)) != said:
            counts["thoughts"] += 1
        if not text:
            counts["empty"] += 1
        elif spoken and (spoken[-1].role, spoken[-1].text) == (turn.role, text):
            # Sent twice by mistake: merged, the model would learn to say the sentence twice.
            counts["repeated"] += 1
            if turn.learnt is False:
                spoken[-1] = spoken[-1].model_copy(update={"learnt": False})
        else:
            spoken.append(turn if text == turn.text else turn.model_copy(update={"text": text}))
    merged = [_merge(list(group), counts) for _, group in groupby(spoken, key=lambda turn: turn.role)]
    counts["merged"] = len(spoken) - len(merged)
    start = 0
    while start < len(merged):
        if is_greeting(merged[start].text):
            counts["greeting"] += 1
        elif merged[start].role == "supporter":
            counts["leading_supporter"] += 1
        else:
            break
        start += 1
    return Preprocessed(merged[start:], +counts)


def dialogue(turns: Sequence[Turn], source: str) -> Dialogue:
    """The turns as a dialogue. Its id is a digest of their text."""
    name = canonical_digest([[turn.role, turn.text] for turn in turns])[:16]
    return Dialogue(id=name, source=source, turns=list(turns))


def _merge(turns: Sequence[Turn], counts: Counter[str]) -> Turn:
    if len(turns) == 1:
        return turns[0]
    learnt = [turn for turn in turns if turn.learnt is not False]
    if len(learnt) < len(turns):
        counts["unlearnt_by_merge"] += len(learnt)
    strategies = dict.fromkeys(turn.strategy for turn in turns if turn.strategy)
    return Turn(
        role=turns[0].role,
        text=" ".join(turn.text for turn in turns),
        strategy="; ".join(strategies) or None,
        learnt=None if len(learnt) == len(turns) else False,
    )


_HAIL = r"(?:hi+|hey+|hello+|hiya|howdy|greetings|good\s+(?:morning|afternoon|evening|day)|welcome)"
_ADDRESSED = r"(?:\s+(?:there|again|dear|friend|everyone|all))?"
_HOW_ARE_YOU = (
    r"(?:and\s+)?how\s+(?:are|r)\s+(?:you|u|we|things)(?:\s+(?:doing|feeling|going))?(?:\s+with\s+you)?"
    r"|(?:and\s+)?how(?:'s|\s+is)\s+(?:it\s+going|your\s+(?:day|evening|night|morning)(?:\s+going)?)"
    r"|nice\s+to\s+meet\s+you|are\s+you\s+there"
)
_WHEN = r"(?:\s+(?:today|tonight|now|this\s+(?:morning|afternoon|evening)))?"
_PART = rf"(?:{_HAIL}|{_HOW_ARE_YOU}){_ADDRESSED}{_WHEN}"
_GREETING = re.compile(rf"\W*{_PART}(?:\W+{_PART})*\W*", re.IGNORECASE)


def is_greeting(text: str) -> bool:
    """Whether a turn is only a greeting: "Hello good afternoon.", "Hi! How are you doing today?".

    Only a fixed set of English phrases counts. "Hi, I lost my job" is not a greeting, and neither is an offer ("How can
    I help you?").
    """
    # The bound keeps the regular expression from backtracking over a long hostile text.
    return len(text) <= 100 and _GREETING.fullmatch(text) is not None
