"""Rows of reflect that generate makes: each answer is rewritten at once, with the same model.

A rewrite's prompt extends the answer's, so the attention states of the history are there already. reflect then finds
finished rows, and neither loads the model nor computes a history again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..contract.rows import Context, Response
from ..contract.settings import REWRITTEN, PreferenceSourceName, ReflectionSettings
from ..contract.stage import Ahead
from ..contract.workspace import Rows, Workspace
from ..engines.base import Request
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
        return sum(outcome_id(answer) in rows for answer in answers)

    def follow(self, response: Response) -> Request | None:
        """The row's next request. Its first response is the answer itself, the others are profiles and the rewrite."""
        if candidate := self._candidates.get(response.id):
            request = self._rewriter.follow(response)
            candidate.made["engine"] = self.engine
        elif outcome_id(response) in self._known or self._source(response) not in REWRITTEN:
            self._ended.append(response)
            return None
        else:
            candidate = Candidate(self._contexts[response.id], response, self._source(response))
            self._candidates[response.id] = candidate
            reject_unusable(candidate)
            request = None if candidate.ended else self._rewriter.start(candidate)
        if candidate.ended:
            del self._candidates[response.id]
            self._ended.append(candidate.rejected)
            candidate.made["ahead"] = True
            self._outcomes.append(outcome(candidate, self._asked.settings))
        return request

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
        return [*self._ended, *(each.rejected for each in self._candidates.values())]
