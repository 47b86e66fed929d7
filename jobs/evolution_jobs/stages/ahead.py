"""Rows of reflect that generate makes: each answer is rewritten at once, with the same model.

A rewrite's prompt extends the answer's, so the attention states of the history are there already. reflect then finds
finished rows, and neither loads the model nor computes a history again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from ..contract.errors import PermanentError
from ..contract.rows import Context, Response
from ..contract.stage import Ahead
from ..contract.workspace import Rows, Workspace
from ..engines.base import Request
from .outcomes import Outcome, decide_without_model, outcome, outcome_id
from .rewriting import Candidate, Rewriter

log = logging.getLogger(__name__)


class RewritesAhead:
    """Makes the rows of the reflect stage in a spec's `ahead`. `follow` is an engine's `Follow`."""

    def __init__(self, asked: Ahead, rows: Rows, contexts: Mapping[str, Context]) -> None:
        self._asked = asked
        self._rows = rows
        self._contexts = contexts
        self._rewriter = Rewriter(asked.settings, asked.seed)
        self._candidates: dict[str, Candidate] = {}
        self._ended: list[Outcome] = []

    @classmethod
    def of(cls, workspace: Workspace, contexts: Mapping[str, Context]) -> RewritesAhead | None:
        """None if the workspace's stage is to make no rows ahead."""
        asked, rows = workspace.spec.ahead, workspace.rows_ahead
        return cls(asked, rows, contexts) if asked is not None and rows is not None else None

    @property
    def token_budget(self) -> int:
        """The reflect stage's limit of a batch."""
        return self._asked.settings.token_budget

    def finished(self, answers: Iterable[Response]) -> set[str]:
        """Ids of the answers whose rows are durable, made by this process or any other."""
        rows = self._rows.finished()
        return {answer.id for answer in answers if outcome_id(answer) in rows}

    def follow(self, response: Response) -> Request | None:
        """The row's next request. Its first response is the answer itself, the others are profiles and the rewrite."""
        if candidate := self._candidates.get(response.id):
            request = self._rewriter.follow(response)
        else:
            candidate = self._candidates[response.id] = Candidate(self._contexts[response.id], response)
            decide_without_model(candidate, self._asked.settings)
            request = None if candidate.ended else self._rewriter.start(candidate)
        if candidate.ended:
            self._ended.append({**outcome(candidate, self._asked.settings), "ahead": True})
        return request

    def keep(self, least: int = 1) -> int:
        """Make ended rows durable if there are so many. Returns how many this were."""
        count = len(self._ended)
        if count < least:
            return 0
        self._rows.append(self._ended)
        self._ended = []
        return count

    def leave(self, error: PermanentError) -> None:
        """Keep what is ended, and log a fault of the reflect stage, which meets it again and reports it as its own."""
        self.keep()
        log.warning("%s is left to its own stage: %s: %s", self._asked.stage, error.reason, error)
