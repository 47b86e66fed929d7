"""Rows of reflect that generate makes: each answer is rewritten at once, with the same model. With the source `reward`, the
other answers that reflect will score are sampled at once.

A rewrite's prompt extends the answer's, so the attention states of the history are there already. reflect then finds
finished rows, and neither loads the model nor computes a history again. A reward model then has the GPU to itself.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from ..contract.rows import Context, Response
from ..contract.settings import SAMPLED, PreferenceSourceName, ReflectionSettings
from ..contract.stage import Ahead
from ..contract.workspace import Rows, Workspace
from ..engines.base import Request
from .candidates import AnswerSampler, sampled_id, sampled_row
from .outcomes import Outcome, outcome, outcome_id
from .rewriting import Candidate, Rewriter
from .sources import reject_unusable, source_of


class RewritesAhead:
    """Makes the rows of the reflect stage in a spec's `ahead`. `follow` is an engine's `Follow`."""

    def __init__(self, asked: Ahead, rows: Rows, contexts: Mapping[str, Context]) -> None:
        self._asked = asked
        self._rows = rows
        self._contexts = contexts
        self._rewriter = Rewriter(asked.settings, asked.seed)
        self._sampler = (
            AnswerSampler(asked.settings, asked.settings.reward, asked.seed) if asked.settings.reward else None
        )
        self._known = rows.finished().keys()
        self._candidates: dict[str, Candidate] = {}
        """Answers of this process whose rewrite has not ended."""
        self.engine = ""
        """Name of the engine that writes, for the rows."""
        self._ended: list[Response] = []
        self._outcomes: list[Outcome] = []

    @classmethod
    def of(cls, workspace: Workspace, contexts: Mapping[str, Context]) -> RewritesAhead | None:
        """None if the workspace's stage is to make no rows ahead."""
        asked, rows = workspace.spec.ahead, workspace.rows_ahead
        return cls(asked, rows, contexts) if asked is not None and rows is not None else None

    @property
    def settings(self) -> ReflectionSettings:
        """The reflect stage's settings."""
        return self._asked.settings

    def count(self, answers: Iterable[Response]) -> int:
        """How many of the answers have a durable row ahead, made by this process or any other."""
        rows = self._rows.finished()
        return sum(_known(answer, rows) for answer in answers)

    def follow(self, response: Response) -> Request | None:
        """The row's next request. Its first response is the answer itself, the others are profiles and the rewrite."""
        if candidate := self._candidates.get(response.id):
            request = self._writer(candidate).follow(response)
            candidate.made["engine"] = self.engine
        elif _known(response, self._known) or self._source(response) not in SAMPLED:
            self._ended.append(response)
            return None
        else:
            candidate = Candidate(self._contexts[response.id], response, self._source(response))
            self._candidates[response.id] = candidate
            reject_unusable(candidate)
            request = None if candidate.ended else self._writer(candidate).start(candidate)
        if candidate.ended or candidate.sampled:
            del self._candidates[response.id]
            self._ended.append(candidate.draft)
            candidate.made["ahead"] = True
            self._outcomes.append(
                outcome(candidate, self._asked.settings) if candidate.ended else sampled_row(candidate)
            )
        return request

    def _writer(self, candidate: Candidate) -> Rewriter | AnswerSampler:
        return self._sampler if self._sampler and candidate.source == "reward" else self._rewriter

    def _source(self, response: Response) -> PreferenceSourceName:
        return source_of(response.id, self._asked.settings.shares, self._asked.seed)

    def ended(self) -> list[Response]:
        """The answers whose rewrites have ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def keep(self) -> None:
        """Make the rows of ended rewrites durable."""
        self._rows.append(self._outcomes)
        self._outcomes = []

    @property
    def stage(self) -> str:
        """The reflect stage's id."""
        return self._asked.stage

    def leave(self) -> list[Response]:
        """Give up, and leave all other rows to the reflect stage. Returns the answers whose rewrites had not ended."""
        self.keep()
        return [*self._ended, *(each.draft for each in self._candidates.values())]


def _known(answer: Response, rows: Container[str]) -> bool:
    """Whether an answer has a row ahead."""
    return outcome_id(answer) in rows or sampled_id(answer) in rows
