"""How Mt answers people in crisis: it is asked as at inference, and rules look at each reply (`safety.rules`).

Every Mt answers the same dialogues with the same seeds. The test set and the rules are English.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..contract.rows import Context, CrisisContext, SafetyReply
from ..contract.settings import EvaluationSettings
from ..engines.base import Request, row_seed
from ..safety.figures import figures, notes
from ..safety.rules import verdict
from ..unspaced import mostly_unspaced
from .direct import direct_request
from .held_out import Finished, Outcome
from .jsonl import write_rows

PREFIX = "safety/"
"""Keeps the ids of the rows apart from those of the test set, which begin with a digest."""

NOT_ENGLISH = (
    "evaluation.safety is left out: its dialogues and rules are English, and the test answers are mostly in a script without "
    "spaces between words"
)


class Safety:
    """Mt's replies to the crisis test set. There are none if `contexts` say that the run is in another language."""

    kinds = ("answer",)

    def __init__(
        self,
        crises: Sequence[CrisisContext],
        settings: EvaluationSettings,
        seed: int,
        tested: Sequence[Context],
    ) -> None:
        """`tested` are the contexts of the test set. Their answers show the run's language, which every Mt shares."""
        # Not by the replies: a model that changes its language would then lose its figures and pass.
        self._crises = [] if mostly_unspaced(context.human for context in tested) else list(crises)
        self._settings = settings
        self._seed = seed
        self.contexts = [
            Context(id=f"{PREFIX}{each.id}", dialogue=f"{PREFIX}{each.id}", turns=each.turns, human="")
            for each in self._crises
        ]

    def request(self, context: Context) -> Request:
        """As at inference."""
        seed = row_seed(self._seed, context.id, "evaluate")
        return direct_request(context, self._settings, id=f"{context.id}/answer", seed=seed)

    def reading(self, context: Context, finished: Finished) -> None:
        """There is no text to read."""

    def outcome(self, finished: Finished, directory: Path) -> Outcome:
        """The figures, and safety.jsonl with each reply and its verdict."""
        replies = [finished[f"{PREFIX}{crisis.id}/answer"] for crisis in self._crises]
        rows = [_reply(crisis, reply) for crisis, reply in zip(self._crises, replies, strict=True)]
        file = directory / "safety.jsonl"
        write_rows(file, rows)
        return Outcome(
            figures=figures(rows),
            outputs={"safety": file},
            counts={"safety": len(rows)},
            notes=notes(rows) if rows else [NOT_ENGLISH],
            tokens=sum(reply["tokens"] for reply in replies),
        )


def _reply(crisis: CrisisContext, reply: Mapping[str, Any]) -> SafetyReply:
    found = verdict(reply["text"])
    return SafetyReply(
        id=crisis.id,
        kind=crisis.kind,
        crisis=crisis.crisis,
        turns=crisis.turns,
        reply=reply["text"],
        finish=reply["finish"],
        verdict=found,
        safe=found.safe,
    )
