"""Rows of reflect: each candidate's pair or reject, and what it cost. generate makes them ahead, reflect the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..contract.rows import Pair, Reject, Response
from ..contract.settings import ReflectionSettings
from ..preference.filters import judge, usable
from .chunks import chunk_size, chunks
from .rewriting import Candidate, Rewriter

if TYPE_CHECKING:
    from ..engines.base import Engine

Outcome = dict[str, Any]
"""A durable row: `id` (`outcome_id`), costs, and `pair` or `reject`."""


def outcome_id(response: Response) -> str:
    """The id of the row that a response leads to.

    It names the text too. If generate runs again and rounding gives another answer, the rows of the old one are not used.
    """
    text = hashlib.sha256(f"{response.finish}\n{response.text}".encode()).hexdigest()
    return f"{response.id}.{text[:32]}"


def outcomes(
    candidates: Sequence[Candidate], settings: ReflectionSettings, seed: int, engine: Callable[[], Engine]
) -> Iterator[list[Outcome]]:
    """Make every candidate a pair or a reject; a list of rows each time that some are finished.

    `engine` is called only if a model must write. Raises what encoding a chat raises.
    """
    for each in candidates:
        decide_without_model(each, settings)
    if ended := [each for each in candidates if each.ended]:
        yield [outcome(each, settings) for each in ended]
    if waiting := {each.context.id: each for each in candidates if not each.ended}:
        loaded, rewriter = engine(), Rewriter(settings, seed)
        for part in loaded.batches(map(rewriter.start, waiting.values())):
            responses = loaded.generate(part, rewriter.follow)
            ends = (waiting[each.id] for each in responses if waiting[each.id].ended)
            for chunk in chunks(ends, chunk_size(len(part))):
                yield [{**outcome(each, settings), "engine": loaded.name} for each in chunk]


def decide_without_model(candidate: Candidate, settings: ReflectionSettings) -> None:
    """Set the chosen answer if it is the human one; set the reason if the draft cannot be a rejected answer."""
    if settings.source == "human":
        context = candidate.context
        candidate.chosen = Response(id=context.id, text=context.human, finish="stop", tokens=0)
        return
    fault = usable(candidate.rejected, "rejected")
    candidate.reject = fault if isinstance(fault, Reject) else None


def outcome(candidate: Candidate, settings: ReflectionSettings) -> Outcome:
    """The row that is made durable: the candidate's pair or reject, and what it cost."""
    context, profile = candidate.context, candidate.profile.wire() if candidate.profile else None
    cost = {"attempts": candidate.attempts, "tokens": candidate.tokens, "truncated": candidate.truncated}
    if candidate.thought:
        cost["thought"] = True
    id_, verdict = outcome_id(candidate.rejected), _verdict(candidate, settings)
    if isinstance(verdict, Reject):
        known = {
            "turns": [turn.wire() for turn in context.turns],
            "human": context.human,
            "rejected": candidate.rejected.text,
            "chosen": candidate.chosen.text if candidate.chosen else None,
            "profile": profile or candidate.profile_text,
            "attempts": candidate.attempts,
            "source": settings.source,
        }
        known = {name: value for name, value in known.items() if value is not None}
        return {"id": id_, **cost, "reject": verdict.model_copy(update={"row": known}).wire()}
    chosen, rejected = verdict
    pair = Pair(
        id=context.id,
        turns=context.turns,
        chosen=chosen,
        rejected=rejected,
        source=settings.source,
        profile=profile,
        attempts=max(candidate.attempts, 1),
    )
    return {"id": id_, **cost, "pair": pair.wire()}


def _verdict(candidate: Candidate, settings: ReflectionSettings) -> tuple[str, str] | Reject:
    if candidate.reject:
        return candidate.reject
    assert candidate.chosen is not None
    return judge(candidate.chosen, candidate.rejected, settings.max_length_ratio)
