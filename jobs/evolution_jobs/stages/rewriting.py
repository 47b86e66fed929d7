"""Reflection and refinement of candidates for a pair: the requests to the engine, their order, and the results."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..contract.rows import Context, Message, Ranking, Reject, Response
from ..contract.settings import PreferenceSourceName, RefinementSettings
from ..engines.base import Request, Sampling, row_seed
from ..preference.filters import clean
from ..preference.prompts import refinement_messages, reflection_messages
from ..preference.reflection import Profile, ProfileError, ProfileForm


@dataclass
class Candidate:
    """A context and the model's answer to it, until they are a pair or a reject."""

    context: Context
    draft: Response
    """The model's answer to the context, from generate."""
    source: PreferenceSourceName
    """Where its chosen answer comes from."""
    attempts: int = 0
    """Tries at a profile."""
    profile_text: str | None = None
    """The model's last attempt at a profile."""
    profile: Profile | None = None
    chosen: Response | None = None
    worst: Response | None = None
    """The rejected answer, if it need not be the draft."""
    answers: dict[str, Response] = field(default_factory=dict)
    """With `reward`, all that are ranked, by the names that `Ranking` has."""
    sampled: bool = False
    """With `reward`, whether all of these are there."""
    ranking: Ranking | None = None
    tokens: int = 0
    """Tokens sampled for this candidate, failed attempts included."""
    truncated: bool = False
    """Whether a prompt lost its oldest turns."""
    thought: bool = False
    """Whether the model wrote a think block before its answer."""
    reject: Reject | None = None
    model: str | None = None
    """The teacher that wrote the chosen answer, as its endpoint names it."""
    made: dict[str, Any] = field(default_factory=dict)
    """What its durable row says of how it was made, such as the engine's name."""

    @property
    def ended(self) -> bool:
        """Whether it is decided what becomes of it."""
        return self.chosen is not None or self.reject is not None

    @property
    def rejected(self) -> Response:
        """The worse answer of the pair."""
        return self.worst or self.draft

    def count(self, response: Response) -> None:
        """Add the cost of a response to this candidate."""
        self.tokens += response.tokens
        self.truncated |= response.truncated_turns > 0
        self.thought |= response.thought


class Rewriter:
    """Makes the requests for profiles and rewrites, and takes their responses. `follow` is an engine's `Follow`."""

    def __init__(self, settings: RefinementSettings, seed: int) -> None:
        self._settings = settings
        self._seed = seed
        self._sampling = Sampling.of(settings)
        # Greedy sampling gives the same text every time.
        self._tries = settings.max_attempts if self._sampling.temperature else 1
        self._form = ProfileForm(settings.fields)
        self._candidates: dict[str, Candidate] = {}

    def start(self, candidate: Candidate) -> Request:
        """The first request for a candidate."""
        self._candidates[candidate.context.id] = candidate
        return self._refinement(candidate) if candidate.source == "none" else self._reflection(candidate)

    def follow(self, response: Response) -> Request | None:
        """The candidate's next request; None once it has a chosen answer, or a reason why it is rejected."""
        candidate = self._candidates[response.id]
        candidate.count(response)
        if candidate.source == "none" or candidate.profile:
            candidate.chosen = response.model_copy(update={"text": clean(response.text)})
            return None
        candidate.attempts += 1
        candidate.profile_text = response.text
        try:
            candidate.profile = self._form.parse(response.text)
        except ProfileError as error:
            if candidate.attempts < self._tries:
                return self._reflection(candidate)
            candidate.reject = Reject(id=response.id, reason="profile_unparsed", detail=str(error))
            return None
        return self._refinement(candidate)

    def _reflection(self, candidate: Candidate) -> Request:
        # No penalty: a profile naturally repeats words of the conversation, and its JSON repeats field names of the prompt.
        sampling = replace(self._sampling, repetition_penalty=1.0)
        messages = reflection_messages(candidate.context.turns, candidate.draft.text, self._settings.fields)
        return replace(
            self._request(candidate, messages, "profile", attempt=candidate.attempts + 1, keep=3),
            sampling=sampling,
            max_new_tokens=self._settings.max_profile_tokens,
            schema=self._form.schema,
        )

    def _refinement(self, candidate: Candidate) -> Request:
        messages = refinement_messages(
            candidate.context.turns, candidate.draft.text, candidate.profile_text, self._settings.fields
        )
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
