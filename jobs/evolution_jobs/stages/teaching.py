"""The preference source `teacher`: another model, behind an OpenAI-compatible endpoint, answers the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..chat.thoughts import without_thoughts
from ..contract.rows import Reject, Response
from ..contract.settings import TeacherSettings
from ..contract.workspace import Workspace
from ..preference.filters import clean
from ..preference.prompts import answer_messages
from .asking import ask, taken
from .rewriting import Candidate
from .sources import divided

if TYPE_CHECKING:
    from ..endpoints.answers import Answer, Chat

FIELD = "teacher"
"""The endpoint's path below `spec`, and the name of what a row took of it."""


class TeacherAnswers:
    """The teacher answers the context with the product's prompt. No model is loaded here."""

    def __init__(self, settings: TeacherSettings, workspace: Workspace) -> None:
        self._settings = settings
        self._workspace = workspace

    def end(self, candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
        """A list each time that some answers are there. Nothing is paid for a draft that no pair can have.

        Raises what `ask` raises.
        """
        waiting, unusable = divided(candidates)
        if unusable:
            yield unusable
        if not waiting:
            return
        by_id = {each.context.id: each for each in waiting}
        for answers in ask(self._workspace, self._settings, FIELD, map(self._chat, waiting)):
            yield [self._ended(by_id[answer.id], answer) for answer in answers]

    def _chat(self, candidate: Candidate) -> Chat:
        from ..endpoints.answers import Chat

        given = {"temperature": self._settings.temperature, "top_p": self._settings.top_p}
        return Chat(
            id=candidate.context.id,
            messages=answer_messages(candidate.context.turns),
            max_tokens=self._settings.max_tokens,
            options={name: value for name, value in given.items() if value is not None},
        )

    def _ended(self, candidate: Candidate, answer: Answer) -> Candidate:
        said = without_thoughts(answer.text)
        candidate.model = answer.model
        candidate.thought = said.thought
        candidate.made[FIELD] = taken(answer)
        if answer.refusal:
            candidate.reject = Reject(id=answer.id, reason="teacher_refused", detail=answer.refusal)
        else:
            candidate.chosen = Response(
                id=answer.id, text=clean(said.rest), finish=answer.finish, tokens=answer.usage.output_tokens
            )
        return candidate
