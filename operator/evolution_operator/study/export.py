"""Votes as CSV: one row a vote, safe to open in a spreadsheet."""

from __future__ import annotations

from datetime import UTC, datetime

from ..results.spreadsheet import as_csv
from .records import Ballots, Item, Vote, side_of

COLUMNS = (
    *("rater", "position", "kind", "context", "dialogue", "question", "first", "second"),
    *("shown_as_a", "choice", "preferred", "seconds", "at", "changed"),
)


def votes_as_csv(ballots: Ballots) -> str:
    """All votes, those of raters whom a report leaves out included. It names the models; it has no answers' texts."""
    return as_csv(COLUMNS, (_cells(vote, ballots.items[vote.item], ballots.study.questions) for vote in ballots.votes))


def _cells(vote: Vote, item: Item, questions: list[str]) -> list[object]:
    names = {"first": item.first, "second": item.second, "tie": "tie"}
    return [
        vote.rater,
        vote.position,
        item.kind,
        item.context,
        item.dialogue,
        questions[vote.question],
        item.first,
        item.second,
        item.second if vote.swapped else item.first,
        side_of(vote.choice, vote.swapped),
        names[vote.choice],
        "" if vote.seconds is None else f"{vote.seconds:.1f}",
        datetime.fromtimestamp(vote.at, UTC).isoformat(timespec="seconds"),
        "yes" if vote.changed else "no",
    ]
