"""Rows of reflect: each candidate's pair or reject, and what it cost. generate makes them ahead, reflect the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..contract.rows import Pair, Reject, Response
from ..contract.settings import PreferenceSourceName, RefinementSettings
from ..preference.filters import judge
from .rewriting import Candidate
from .sources import PreferenceSource

Outcome = dict[str, Any]
"""A durable row: `id` (`outcome_id`), costs, and `pair` or `reject`."""


def outcome_id(response: Response) -> str:
    """The id of the row that a response leads to.

    It names the text too. If generate runs again and rounding gives another answer, the rows of the old one are not used.
    """
    text = hashlib.sha256(f"{response.finish}\n{response.text}".encode()).hexdigest()
    return f"{response.id}.{text[:32]}"


def outcomes(
    candidates: Sequence[Candidate],
    settings: RefinementSettings,
    sources: Mapping[PreferenceSourceName, PreferenceSource],
) -> Iterator[list[Outcome]]:
    """Make every candidate a pair or a reject; a list of rows each time that some are finished.

    Whoever asks for the next list has made this one durable. Raises what the candidates' sources raise.
    """
    for source in dict.fromkeys(sources.values()):
        own = [each for each in candidates if sources[each.source] is source]
        for ended in source.end(own):
            yield [outcome(each, settings) for each in ended]


def outcome(candidate: Candidate, settings: RefinementSettings) -> Outcome:
    """The row that is made durable: the candidate's pair or reject, and what it cost."""
    context = candidate.context
    cost = {"attempts": candidate.attempts, "tokens": candidate.tokens, "truncated": candidate.truncated}
    if candidate.thought:
        cost["thought"] = True
    row = {"id": outcome_id(candidate.draft), **cost, **candidate.made}
    verdict = _verdict(candidate, settings)
    if isinstance(verdict, Reject):
        known = {
            "turns": [turn.wire() for turn in context.turns],
            "human": context.human,
            "rejected": candidate.rejected.text,
            "chosen": candidate.chosen.text if candidate.chosen else None,
            "profile": candidate.profile or candidate.profile_text,
            "attempts": candidate.attempts,
            "source": candidate.source,
            "model": candidate.model,
            "ranking": candidate.ranking.wire() if candidate.ranking else None,
        }
        known = {name: value for name, value in known.items() if value is not None}
        return row | {"reject": verdict.model_copy(update={"row": known}).wire()}
    chosen, rejected = verdict
    pair = Pair(
        id=context.id,
        turns=context.turns,
        chosen=chosen,
        rejected=rejected,
        source=candidate.source,
        profile=candidate.profile,
        attempts=max(candidate.attempts, 1),
        model=candidate.model,
        ranking=candidate.ranking,
    )
    return row | {"pair": pair.wire()}


def _verdict(candidate: Candidate, settings: RefinementSettings) -> tuple[str, str] | Reject:
    if candidate.reject:
        return candidate.reject
    assert candidate.chosen is not None
    return judge(candidate.chosen, candidate.rejected, settings.max_length_ratio)
