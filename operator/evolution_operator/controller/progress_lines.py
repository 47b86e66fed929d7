"""A stage's progress from the lines that its shards print. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..api.status import StageProgress


@dataclass(frozen=True)
class Reading:
    """One shard's last progress line."""

    done: int
    total: int
    unit: str
    at: float
    """Monotonic seconds."""


def last_progress(text: str, now: float) -> Reading | None:
    """The last progress line of a log: `{"progress": {"done": 40, "total": 96, "unit": "rows", ...}}`."""
    for line in reversed(text.splitlines()):
        if not line.startswith('{"progress"'):
            continue
        try:
            told = json.loads(line)["progress"]
            return Reading(max(0, int(told["done"])), max(0, int(told["total"])), str(told["unit"])[:20], now)
        except (ValueError, KeyError, TypeError):
            continue
    return None


def summed(
    first: Mapping[str, Reading], last: Mapping[str, Reading], ended: Collection[str], shards: int
) -> StageProgress:
    """Progress over all shards, from the first and the last reading of each Pod that was read; `last` is not empty.

    Pods in `ended` have succeeded and done all they had to. Shards not heard of yet are taken to have as much to do as
    the others, and none of it done. The time left follows from what was done since the first readings alone: rows that
    an earlier attempt had done were there by then, and cost nothing.
    """
    share = sum(reading.total for reading in last.values()) / len(last)
    unread = sum(name not in last for name in ended)
    done = sum(reading.total if name in ended else reading.done for name, reading in last.items()) + unread * share
    total = share * max(shards, len(last) + unread)
    at_work = [name for name in last if name not in ended]
    rate = sum(_rate(first[name], last[name]) for name in at_work)
    still = max(shards - len(ended), len(at_work))
    return StageProgress(
        done=round(done),
        total=round(total),
        unit=next(iter(last.values())).unit,
        eta_seconds=round((total - done) / (rate * still / len(at_work))) if rate > 0 else None,
    )


def _rate(first: Reading, last: Reading) -> float:
    """Rows or steps a second."""
    return max(0, last.done - first.done) / (last.at - first.at) if last.at > first.at else 0.0
