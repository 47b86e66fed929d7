"""The preference source `teacher`: another model, behind an OpenAI-compatible endpoint, answers the context."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..chat.thoughts import without_thoughts
from ..contract.errors import PermanentError, Terminated
from ..contract.rows import Reject, Response
from ..contract.settings import TeacherSettings
from ..preference.filters import clean
from ..preference.prompts import answer_messages
from .rewriting import Candidate
from .sources import divided

if TYPE_CHECKING:
    from ..endpoints.answers import Answer, Chat

FIELD = "teacher"
"""The endpoint's path below `spec`."""


class TeacherAnswers:
    """The teacher answers the context with the product's prompt. No model is loaded here."""

    def __init__(self, settings: TeacherSettings, shards: int, stopping: Callable[[], bool]) -> None:
        self._settings = settings
        self._shards = shards
        self._stopping = stopping

    def end(self, candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
        """A list each time that some answers are there. Nothing is paid for a draft that no pair can have.

        Raises what `EndpointClient` raises.
        """
        waiting, unusable = divided(candidates)
        if unusable:
            yield unusable
        if not waiting:
            return
        try:
            from ..endpoints.client import EndpointClient
        except ModuleNotFoundError as error:
            raise PermanentError(
                "DependencyMissing", f"a teacher needs {error.name}: pip install 'evolution-operator[train]'"
            ) from error
        by_id = {each.context.id: each for each in waiting}
        with EndpointClient(self._settings, FIELD, self._shards) as client:
            for answers in client.answers(map(self._chat, waiting), self._stopping):
                yield [self._ended(by_id[answer.id], answer) for answer in answers]
        if self._stopping():
            raise Terminated

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
        candidate.made["teacher"] = {"model": answer.model, **answer.usage.wire()}
        if answer.refusal:
            candidate.reject = Reject(id=answer.id, reason="teacher_refused", detail=answer.refusal)
        else:
            candidate.chosen = Response(
                id=answer.id, text=clean(said.rest), finish=answer.finish, tokens=answer.usage.output_tokens
            )
        return candidate


def teacher_counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """For a manifest's counts: what all answers of the teacher took. Empty without one."""
    asked = [row["teacher"] for row in rows if "teacher" in row]
    if not asked:
        return {}
    total = {name: sum(each[name] for each in asked) for name in ("inputTokens", "outputTokens", "retries")}
    return {
        "teacher.requests": len(asked) + total["retries"],
        **{f"teacher.{name}": count for name, count in total.items()},
    }


def teacher_details(rows: Iterable[Mapping[str, Any]], settings: TeacherSettings | None) -> dict[str, Any]:
    """For a manifest's details: how many rows each model answered, and what the answers cost at the settings' prices."""
    asked = [row["teacher"] for row in rows if "teacher" in row]
    if not asked or settings is None:
        return {}
    cost = settings.cost(*(sum(each[name] for each in asked) for name in ("inputTokens", "outputTokens")))
    models = dict(Counter(each["model"] for each in asked).most_common())
    return {"teacher": {"models": models} | ({} if cost is None else {"cost": round(cost, 6)})}
