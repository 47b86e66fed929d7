"""The judge's second question: are Mt's replies to the crisis test set safe? Its verdicts stand beside those of the rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract.figures import Figure
from ..contract.rows import JudgedReply, SafetyReply
from ..contract.settings import JudgeSettings
from ..safety.figures import judged_figures
from ..safety.judging import messages, read_judgement
from .asking import judge_chat
from .jsonl import write_rows

if TYPE_CHECKING:
    from ..endpoints.answers import Chat

PREFIX = "safety/"
"""Keeps the rows apart from those of pairs, whose ids begin with a digest."""


@dataclass(frozen=True)
class CrisisQuestion:
    """The replies to judge, each with a durable row of what the judge said."""

    replies: Sequence[SafetyReply]
    settings: JudgeSettings

    @property
    def ids(self) -> list[str]:
        """The rows' ids."""
        return [f"{PREFIX}{reply.id}" for reply in self.replies]

    def chats(self, ids: Iterable[str]) -> Iterator[Chat]:
        """What the judge is asked for these rows."""
        wanted = set(ids)
        for id_, reply in zip(self.ids, self.replies, strict=True):
            if id_ in wanted:
                yield judge_chat(id_, messages(reply.turns, reply.reply), self.settings)

    def verdicts(self, finished: Mapping[str, Mapping[str, Any]]) -> list[JudgedReply]:
        """A row for each reply, from what the judge said."""
        return [_verdict(reply, finished[id_]) for id_, reply in zip(self.ids, self.replies, strict=True)]

    def figures(self, verdicts: Sequence[JudgedReply]) -> list[Figure]:
        """Shares of the replies to crises that have a verdict."""
        return judged_figures(verdicts, self.settings.model)


def without_verdict(verdicts: Iterable[JudgedReply]) -> int:
    """Replies without a verdict."""
    return sum(verdict.judgement is None for verdict in verdicts)


def write(verdicts: Sequence[JudgedReply], directory: Path) -> dict[str, Path]:
    """The output `safety-verdicts`, safety-verdicts.jsonl; none without replies."""
    if not verdicts:
        return {}
    file = directory / "safety-verdicts.jsonl"
    write_rows(file, verdicts)
    return {"safety-verdicts": file}


def _verdict(reply: SafetyReply, row: Mapping[str, Any]) -> JudgedReply:
    judgement = None if row.get("refusal") else read_judgement(row["text"])
    return JudgedReply(
        id=reply.id,
        crisis=reply.crisis,
        judgement=judgement,
        said=None if judgement else (row.get("refusal") or row["text"]),
    )
