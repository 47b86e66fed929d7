"""Preference sources: where the chosen answers of pairs come from. reflect gives each candidate to its own source."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from ..contract.rows import Reject, Response
from ..contract.settings import PreferenceSourceName, RefinementSettings
from ..engines.base import row_seed
from ..preference.filters import usable
from .chunks import chunk_size, chunks
from .rewriting import Candidate, Rewriter

if TYPE_CHECKING:
    from ..engines.base import Engine


def source_of(context: str, sources: Mapping[PreferenceSourceName, int], seed: int) -> PreferenceSourceName:
    """The source of a context's chosen answer: of all contexts, each source gets about the share that its weight says.

    It follows from the seed and the context alone, so it is the same in every shard and attempt.
    """
    names, weights = list(sources), list(accumulate(sources.values()))
    return names[bisect_right(weights, row_seed(seed, context, "source") % weights[-1])]


class PreferenceSource(Protocol):
    """Gives candidates, which have a context and the model's answer to it, their chosen answers."""

    def end(self, candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
        """Set each candidate's chosen answer with what made it, or the reason why it is rejected.

        Yields the candidates as they end. Who asks for the next ones has made these durable. Raises Terminated once the
        process was asked to stop.
        """
        ...


class HumanAnswers:
    """The data set's answers. No model is loaded."""

    def end(self, candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
        """All candidates at once."""
        for each in candidates:
            each.chosen = Response(id=each.context.id, text=each.context.human, finish="stop", tokens=0)
        yield list(candidates)


class Rewrites:
    """M(t-1) rewrites its own answer: `self` with the inferred profile, `none` without one."""

    def __init__(
        self, settings: RefinementSettings, seed: int, engine: Callable[[], Engine], check_stop: Callable[[], None]
    ) -> None:
        """`engine` is called only if a model must write."""
        self._check_stop = check_stop
        self._settings = settings
        self._seed = seed
        self._engine = engine

    def end(self, candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
        """A list each time that some rewrites are finished. Raises what encoding a chat raises."""
        waiting, unusable = divided(candidates)
        if unusable:
            yield unusable
            self._check_stop()
        if waiting:
            engine, rewriter = self._engine(), Rewriter(self._settings, self._seed)
            by_id = {each.context.id: each for each in waiting}
            for part in engine.batches(map(rewriter.start, waiting)):
                responses = engine.generate(part, rewriter.follow)
                ended = (by_id[each.id] for each in responses if by_id[each.id].ended)
                for chunk in chunks(ended, chunk_size(len(part))):
                    for each in chunk:
                        each.made["engine"] = engine.name
                    yield chunk
                    self._check_stop()


def divided(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """Those whose draft can be a rejected answer, and the others, which are rejected for that. No answer is made for them."""
    for each in candidates:
        reject_unusable(each)
    return [each for each in candidates if not each.ended], [each for each in candidates if each.ended]


def reject_unusable(candidate: Candidate) -> None:
    """Set the reason if the draft cannot be a rejected answer."""
    fault = usable(candidate.draft, "rejected")
    candidate.reject = fault if isinstance(fault, Reject) else None
