"""Figures of a study: attention checks, win rates with intervals, agreement, position bias. Pure."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import krippendorff
import numpy as np
from evolution_jobs.contract.figures import MIN_DIALOGUES
from evolution_jobs.metrics.bootstrap import bootstrap, per_row, ratio

from .records import MAX_FAILED_CHECKS, Ballots, Choice, Item, Rater, Vote, side_of

VALUES: Mapping[Choice, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}
"""What a vote counts for the first model."""
CODES: Mapping[Choice, int] = {"first": 0, "second": 1, "tie": 2}


def report(ballots: Ballots, max_failed_checks: int = MAX_FAILED_CHECKS) -> dict[str, Any]:
    """The whole report as one JSON-ready document. `figures` leave out raters by the rule, `allRaters` do not."""
    raters = [_rater(ballots, rater, max_failed_checks) for rater in ballots.raters]
    left_out = {rater["rater"] for rater in raters if rater["leftOut"]}
    everyone = {rater.id for rater in ballots.raters}
    kinds = Counter(item.kind for item in ballots.items)
    return {
        "study": {
            "title": ballots.study.title,
            "models": ballots.study.models,
            "questions": ballots.study.questions,
            "seed": ballots.study.seed,
            "pairs": kinds["pair"],
            "checks": kinds["check"],
            "equalLeftOut": ballots.study.equal_left_out,
        },
        "rule": {
            "maxFailedChecks": max_failed_checks,
            "text": f"a rater with more than {max_failed_checks} failed attention check{'' if max_failed_checks == 1 else 's'} is "
            "left out; a check is failed if the main question does not prefer the human answer to the shuffled words",
        },
        "raters": raters,
        "figures": figures(ballots, everyone - left_out),
        "allRaters": figures(ballots, everyone),
    }


def figures(ballots: Ballots, raters: Collection[int]) -> list[dict[str, Any]]:
    """For each question the figures of these raters' votes on pairs."""
    found = []
    for number, text in enumerate(ballots.study.questions):
        votes = [
            vote
            for vote in ballots.votes
            if vote.question == number and vote.rater in raters and ballots.items[vote.item].kind == "pair"
        ]
        groups: dict[tuple[str, str], list[Vote]] = defaultdict(list)
        for item in ballots.items:
            if item.kind == "pair":
                groups.setdefault((item.first, item.second), [])
        for vote in votes:
            groups[ballots.items[vote.item].first, ballots.items[vote.item].second].append(vote)
        found.append(
            {
                "question": text,
                "raters": len({vote.rater for vote in votes}),
                "comparisons": [comparison(*models, group, ballots.items) for models, group in groups.items()],
                "agreement": agreement(votes),
                "position": position_bias(votes, ballots.items),
            }
        )
    return found


def comparison(first: str, second: str, votes: Sequence[Vote], items: Sequence[Item]) -> dict[str, Any]:
    """Wins, losses and ties of the first model against the second, with its win rate (a tie counts one half)."""
    counts = Counter(vote.choice for vote in votes)
    dialogues = [items[vote.item].dialogue for vote in votes]
    rate, bounds = _mean([VALUES[vote.choice] for vote in votes], dialogues)
    return {
        "first": first,
        "second": second,
        "votes": len(votes),
        "items": len({vote.item for vote in votes}),
        "dialogues": len(set(dialogues)),
        "wins": counts["first"],
        "losses": counts["second"],
        "ties": counts["tie"],
        "winRate": rate,
        "interval": bounds,
        "words": _in_words(bounds, f"{first} is preferred", f"{second} is preferred", "no difference is shown"),
        "note": f"fewer than {MIN_DIALOGUES} dialogues: the interval is too narrow to rely on"
        if bounds and len(set(dialogues)) < MIN_DIALOGUES
        else None,
        "agreement": agreement(votes),
    }


def agreement(votes: Sequence[Vote]) -> dict[str, Any]:
    """Krippendorff's alpha (nominal: first model, second model, tie). None, with the reason, where it is undefined."""
    columns = {item: number for number, item in enumerate(sorted({vote.item for vote in votes}))}
    rows = {rater: number for number, rater in enumerate(sorted({vote.rater for vote in votes}))}
    table = np.full((len(rows), len(columns)), np.nan)
    for vote in votes:
        table[rows[vote.rater], columns[vote.item]] = CODES[vote.choice]
    shared = np.sum(~np.isnan(table), axis=0) >= 2 if votes else np.zeros(0, bool)
    found: dict[str, Any] = {"alpha": None, "raters": len(rows), "items": int(shared.sum()), "reason": None}
    if not shared.any():
        return found | {"reason": "no item has votes of two raters"}
    if len(set(table[:, shared][~np.isnan(table[:, shared])])) < 2:
        return found | {"reason": "all votes are the same, and alpha is then undefined"}
    return found | {"alpha": float(krippendorff.alpha(reliability_data=table, level_of_measurement="nominal"))}


def position_bias(votes: Sequence[Vote], items: Sequence[Item]) -> dict[str, Any]:
    """How often the answer shown as A was preferred, of the votes that prefer one."""
    decided = [vote for vote in votes if vote.choice != "tie"]
    values = [float(side_of(vote.choice, vote.swapped) == "a") for vote in decided]
    share, bounds = _mean(values, [items[vote.item].dialogue for vote in decided])
    return {
        "a": int(sum(values)),
        "b": len(values) - int(sum(values)),
        "shareA": share,
        "interval": bounds,
        "words": _in_words(
            bounds, "A is preferred, whatever it is", "B is preferred, whatever it is", "no bias is shown"
        ),
    }


def _rater(ballots: Ballots, rater: Rater, max_failed_checks: int) -> dict[str, Any]:
    votes = [vote for vote in ballots.votes if vote.rater == rater.id and vote.question == 0]
    checks = [vote for vote in votes if ballots.items[vote.item].kind == "check"]
    failed = sum(vote.choice != "first" for vote in checks)
    seconds = [vote.seconds for vote in votes if vote.seconds is not None]
    return {
        "rater": rater.id,
        "started": rater.started,
        "votes": len(votes),
        "skipped": rater.skipped,
        "open": rater.places - rater.done,
        "checks": len(checks),
        "failedChecks": failed,
        "medianSeconds": round(statistics.median(seconds), 1) if seconds else None,
        "leftOut": failed > max_failed_checks,
    }


def _mean(values: Sequence[float], groups: Sequence[Hashable]) -> tuple[float | None, list[float] | None]:
    """The mean, and its 95 % interval by bootstrap over groups."""
    if not values:
        return None, None
    bounds = bootstrap(per_row(values), ratio, groups).interval()
    return sum(values) / len(values), None if bounds is None else list(bounds)


def _in_words(bounds: Sequence[float] | None, above: str, below: str, neither: str) -> str:
    if bounds is None:
        return "too few dialogues for an interval"
    low, high = bounds
    if low <= 0.5 <= high:
        return f"the interval includes one half: {neither}"
    return above if low > 0.5 else below
