"""Rows of reflect that generate makes: it rewrites each batch of answers at once, with the same model.

A rewrite's prompt extends the answer's, so the attention states of the history are there already. reflect then finds
finished rows, and neither loads the model nor computes a history again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..contract.errors import PermanentError
from ..contract.rows import Context, Response
from ..contract.stage import Ahead
from ..contract.workspace import Rows, Workspace
from .outcomes import outcome_id, outcomes
from .rewriting import Candidate

if TYPE_CHECKING:
    from ..engines.base import Engine

log = logging.getLogger(__name__)


class RewritesAhead:
    """Makes the rows of the reflect stage in a spec's `ahead`."""

    def __init__(self, asked: Ahead, rows: Rows) -> None:
        self._asked = asked
        self._rows = rows
        self._finished = set(rows.finished())
        self.stopped = False
        """Whether reflection has failed. reflect meets the fault again and reports it as its own."""

    @classmethod
    def of(cls, workspace: Workspace) -> RewritesAhead | None:
        """None if the workspace's stage is to make no rows ahead."""
        asked, rows = workspace.spec.ahead, workspace.rows_ahead
        return cls(asked, rows) if asked is not None and rows is not None else None

    @property
    def token_budget(self) -> int:
        """The reflect stage's limit of a batch."""
        return self._asked.settings.token_budget

    def lacks(self, response: Response) -> bool:
        """Whether the answer is still to be rewritten."""
        return not self.stopped and outcome_id(response) not in self._finished

    def count(self, responses: Sequence[Response]) -> int:
        """How many of these answers are rewritten, by this process or any other."""
        finished = self._rows.finished().keys()
        return sum(outcome_id(response) in finished for response in responses)

    def rewrite(
        self,
        contexts: Mapping[str, Context],
        responses: Sequence[Response],
        engine: Engine,
        durable: Callable[[int], None],
    ) -> None:
        """Rewrite answers, and make the outcomes durable. `durable` is called with the number of rows of each batch.

        A fault of the reflect stage (PermanentError) stops it, and is no fault of generate.
        """
        candidates = [Candidate(contexts[each.id], each) for each in responses]
        try:
            for batch in outcomes(candidates, self._asked.settings, self._asked.seed, lambda: engine):
                self._rows.append({**row, "ahead": True} for row in batch)
                self._finished.update(row["id"] for row in batch)
                durable(len(batch))
        except PermanentError as error:
            self.stopped = True
            log.warning("%s is left to its own stage: %s: %s", self._asked.stage, error.reason, error)
