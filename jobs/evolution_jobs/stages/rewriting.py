"""Reflection and refinement of candidates for a pair: the requests to the engine, their order, and the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..contract.rows import Context, Message, Reject, Response
from ..contract.settings import ReflectionSettings
from ..engines.base import Request, Sampling, row_seed
from ..preference.filters import clean
from ..preference.prompts import refinement_messages, reflection_messages
from ..preference.reflection import SCHEMA, Profile, ProfileError, parse_profile

if TYPE_CHECKING:
    from ..engines.base import Engine


@dataclass
class Candidate:
    """A context and the model's answer to it, until they are a pair or a reject."""

    context: Context
    rejected: Response
    attempts: int = 0
    """Tries at a profile."""
    profile_text: str | None = None
    """The model's last attempt at a profile."""
    profile: Profile | None = None
    chosen: Response | None = None
    tokens: int = 0
    """Tokens sampled for this candidate, failed attempts included."""
    truncated: bool = False
    """Whether a prompt lost its oldest turns."""
    thought: bool = False
    """Whether the model wrote a think block before its answer."""
    reject: Reject | None = None

    def count(self, response: Response) -> None:
        """Add the cost of a response to this candidate."""
        self.tokens += response.tokens
        self.truncated |= response.truncated_turns > 0
        self.thought |= response.thought


class Rewriter:
    """Asks the engine for profiles and rewrites."""

    def __init__(self, engine: Engine, settings: ReflectionSettings, seed: int) -> None:
        self._engine = engine
        self._settings = settings
        self._seed = seed
        self._sampling = Sampling.of(settings)

    def rewrite(self, candidates: Sequence[Candidate]) -> None:
        """Set the chosen answer of each candidate, or why it is rejected."""
        if self._settings.source == "self":
            self._infer_profiles(candidates)
        profiled = {each.context.id: each for each in candidates if not each.reject}
        for response in self._engine.generate(map(self._refinement, profiled.values())):
            candidate = profiled[response.id]
            candidate.count(response)
            candidate.chosen = response.model_copy(update={"text": clean(response.text)})

    def first_request(self, candidate: Candidate) -> Request:
        """The first request for a candidate: batches are made of these."""
        return self._refinement(candidate) if self._settings.source == "none" else self._reflection(candidate)

    def _infer_profiles(self, candidates: Sequence[Candidate]) -> None:
        waiting = {each.context.id: each for each in candidates}
        # Greedy sampling gives the same text every time.
        tries = self._settings.max_attempts if self._sampling.temperature else 1
        for _ in range(tries):
            for response in self._engine.generate([self._reflection(each) for each in waiting.values()]):
                candidate = waiting[response.id]
                candidate.count(response)
                candidate.attempts += 1
                candidate.profile_text = response.text
                try:
                    candidate.profile, candidate.reject = parse_profile(response.text), None
                except ProfileError as error:
                    candidate.reject = Reject(id=response.id, reason="profile_unparsed", detail=str(error))
            waiting = {id_: each for id_, each in waiting.items() if each.reject}

    def _reflection(self, candidate: Candidate) -> Request:
        # No penalty: a profile naturally repeats words of the conversation, and its JSON repeats field names of the prompt.
        sampling = replace(self._sampling, repetition_penalty=1.0)
        messages = reflection_messages(candidate.context.turns, candidate.rejected.text)
        return replace(
            self._request(candidate, messages, "profile", attempt=candidate.attempts + 1, keep=3),
            sampling=sampling,
            max_new_tokens=self._settings.max_profile_tokens,
            schema=SCHEMA,
        )

    def _refinement(self, candidate: Candidate) -> Request:
        messages = refinement_messages(candidate.context.turns, candidate.rejected.text, candidate.profile_text)
        keep = 3 if candidate.profile_text is None else 5
        return replace(self._request(candidate, messages, "rewrite", attempt=1, keep=keep), extended=False)

    def _request(self, candidate: Candidate, messages: list[Message], purpose: str, attempt: int, keep: int) -> Request:
        """A request. Its last `keep` messages, from the seeker's last turn on, are never left out."""
        return Request(
            id=candidate.context.id,
            messages=messages,
            sampling=self._sampling,
            seed=row_seed(self._seed, candidate.context.id, purpose, attempt),
            max_new_tokens=self._settings.max_new_tokens,
            max_prompt_tokens=self._settings.max_prompt_tokens,
            keep=keep,
        )
