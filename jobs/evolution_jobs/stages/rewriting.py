"""Reflection and refinement of one row: what is asked of the engine, in which order, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..contract.rows import Context
from ..contract.settings import ReflectionSettings
from ..engines.base import Completion, Message, Request, Sampling, row_seed
from ..preference.filters import Answer, Dropped, clean
from ..preference.prompts import refinement_messages, reflection_messages
from ..preference.reflection import SCHEMA, Profile, ProfileError, parse_profile

if TYPE_CHECKING:
    from ..engines.base import Engine


@dataclass
class Row:
    """A context on its way to a pair."""

    context: Context
    rejected: Answer
    attempts: int = 0
    """Tries at a profile."""
    profile_text: str | None = None
    """What the model last wrote for a profile."""
    profile: Profile | None = None
    chosen: Answer | None = None
    tokens: int = 0
    """Sampled for this row, attempts that failed included."""
    truncated: bool = False
    """Whether some prompt lost its oldest turns."""
    dropped: Dropped | None = None

    def count(self, completion: Completion) -> None:
        """Note what a completion for this row cost."""
        self.tokens += completion.tokens
        self.truncated |= completion.truncated_turns > 0


class Rewriter:
    """Asks the engine for profiles and rewrites."""

    def __init__(self, engine: Engine, settings: ReflectionSettings, seed: int) -> None:
        self._engine = engine
        self._settings = settings
        self._seed = seed
        self._sampling = Sampling.of(settings)

    def rewrite(self, rows: Sequence[Row]) -> None:
        """Give each row its chosen answer, or say why it is dropped."""
        if self._settings.source == "self":
            self._infer_profiles(rows)
        profiled = {row.context.id: row for row in rows if not row.dropped}
        for completion in self._engine.generate(map(self._refinement, profiled.values())):
            row = profiled[completion.id]
            row.count(completion)
            row.chosen = Answer(clean(completion.text), cut=completion.finish == "length")

    def first_request(self, row: Row) -> Request:
        """What is asked of a row first: batches are made of these."""
        return self._refinement(row) if self._settings.source == "none" else self._reflection(row)

    def _infer_profiles(self, rows: Sequence[Row]) -> None:
        waiting = {row.context.id: row for row in rows}
        # A greedy answer is the same every time.
        tries = self._settings.max_attempts if self._sampling.temperature else 1
        for _ in range(tries):
            for completion in self._engine.generate([self._reflection(row) for row in waiting.values()]):
                row = waiting[completion.id]
                row.count(completion)
                row.attempts += 1
                row.profile_text = completion.text
                try:
                    row.profile, row.dropped = parse_profile(completion.text), None
                except ProfileError as error:
                    row.dropped = Dropped("profile_unparsed", str(error))
            waiting = {id_: row for id_, row in waiting.items() if row.dropped}

    def _reflection(self, row: Row) -> Request:
        # Unpenalised: a profile repeats the conversation's words by nature, and its JSON the prompt's field names.
        sampling = replace(self._sampling, repetition_penalty=1.0)
        messages = reflection_messages(row.context.turns, row.rejected.text)
        return replace(
            self._request(row, messages, "profile", attempt=row.attempts + 1, keep=3),
            sampling=sampling,
            max_new_tokens=self._settings.max_profile_tokens,
            schema=SCHEMA,
        )

    def _refinement(self, row: Row) -> Request:
        messages = refinement_messages(row.context.turns, row.rejected.text, row.profile_text)
        return self._request(row, messages, "rewrite", attempt=1, keep=3 if row.profile_text is None else 5)

    def _request(self, row: Row, messages: list[Message], purpose: str, attempt: int, keep: int) -> Request:
        """A request whose last `keep` messages, from the seeker's last turn on, are never left out."""
        return Request(
            id=row.context.id,
            messages=messages,
            sampling=self._sampling,
            seed=row_seed(self._seed, row.context.id, purpose, attempt),
            max_new_tokens=self._settings.max_new_tokens,
            max_prompt_tokens=self._settings.max_prompt_tokens,
            keep=keep,
        )
