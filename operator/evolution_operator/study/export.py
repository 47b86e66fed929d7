"""Votes as CSV: one row a vote, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

from .records import Ballots, Item, Vote, side_of

COLUMNS = (
    *("rater", "position", "kind", "context", "dialogue", "question", "first", "second"),
    *("shown_as_a", "choice", "preferred", "seconds", "at", "changed"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a cell begins that a spreadsheet takes for a formula."""


def votes_as_csv(ballots: Ballots) -> str:
    """All votes, those of raters whom a report leaves out included. It names the models; it has no answers' texts."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for vote in ballots.votes:
        writer.writerow(guarded(cell) for cell in _cells(vote, ballots.items[vote.item], ballots.study.questions))
    return text.getvalue()


def guarded(cell: object) -> str:
    """A cell's text, with an apostrophe before what a spreadsheet would take for a formula."""
    text = str(cell)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text


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
