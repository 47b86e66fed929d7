"""Progress of an attempt over its shards, and the time it may still take. Pure: the caller passes the time."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from ..api.status import StageProgress

EVIDENCE = 2
"""Rows or steps that must be observed to finish before a time is estimated from them."""
EVEN_UNITS = frozenset({"rows", "steps"})
"""Units of which one costs about as much as the next. Prepare's parts do not: a model may follow a small file."""

UNIT_LENGTH = 20
"""Characters of a unit that are kept."""
RUN_NAME_LENGTH = 317
"""Longest `namespace/name` of a Kubernetes resource: 63 and 253 characters."""


@dataclass(frozen=True)
class Reading:
    """A progress line of one shard, and when it was read, in monotonic seconds."""

    at: float
    done: int
    total: int
    unit: str


COMPUTED_ELSEWHERE = "ComputedElsewhere"


@dataclass(frozen=True)
class Waiting:
    """A line about waiting: the run that is waited for, `namespace/name`, or None if the shard no longer waits."""

    run: str | None

    def note(self) -> tuple[str, str] | None:
        """Reason and message of what delays the attempt; None if nothing does."""
        if self.run is None:
            return None
        what = "this run takes its result, or takes over if it dies"
        return COMPUTED_ELSEWHERE, f"run {self.run} computes this stage; {what}"


def read_line(line: str | bytes, at: float) -> Reading | Waiting | None:
    """What a line of a stage's standard output says of the stage; None for any other line.

    A stage writes `{"progress": {"done": 40, "total": 96, "unit": "rows", ...}}` and, while another run computes its
    result, `{"waiting": {"run": "namespace/name", ...}}`. `at` is when the line was read, in monotonic seconds.
    """
    try:
        document = json.loads(line)
        if isinstance(document, dict) and isinstance(waiting := document.get("waiting"), dict):
            run = waiting.get("run")
            return Waiting(str(run)[:RUN_NAME_LENGTH] if run is not None else None)
        progress = document["progress"]
        done, total = max(0, int(progress["done"])), max(0, int(progress["total"]))
        return Reading(at, done, total, str(progress["unit"])[:UNIT_LENGTH])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def last_line(text: str, at: float) -> Reading | Waiting | None:
    """The last line of a log that says anything of the stage (see `read_line`); None where no line does."""
    candidates = (line for line in reversed(text.splitlines()) if line.startswith(('{"progress"', '{"waiting"')))
    return next((said for line in candidates if (said := read_line(line, at)) is not None), None)


@dataclass(frozen=True)
class Pace:
    """One shard's first reading, and the reading at which it last made progress.

    Rows of the first reading do not count: an earlier attempt has finished them, or they were dropped before the model
    was called.
    """

    first: Reading
    last: Reading

    @classmethod
    def since(cls, reading: Reading) -> Pace:
        """The pace after a shard's first reading."""
        return cls(reading, reading)

    def after(self, reading: Reading) -> Pace:
        """The pace after one more reading. A shard with fewer rows than before has started again."""
        if reading.done < self.last.done:
            return Pace.since(reading)
        moved_at = reading.at if reading.done > self.last.done else self.last.at
        return Pace(self.first, replace(reading, at=moved_at))

    def ended(self) -> Pace:
        """The pace of a shard that has succeeded: all its rows are done."""
        return Pace(self.first, replace(self.last, done=self.last.total))

    def seconds_left(self, now: float) -> int | None:
        """Estimated seconds until the shard ends, at least 1; None if there is no estimate.

        There is none before `EVIDENCE` rows were observed to finish, and none once the estimated time is over while
        rows remain.
        """
        seen, remaining = self.last.done - self.first.done, self.last.total - self.last.done
        if seen < EVIDENCE or remaining <= 0 or self.last.unit not in EVEN_UNITS:
            return None
        seconds = (self.last.at - self.first.at) / seen * remaining - (now - self.last.at)
        return math.ceil(seconds) if seconds > 0 else None


def attempt_progress(paces: Collection[Pace], shards: int, unread: int, now: float) -> StageProgress | None:
    """Progress of an attempt of `shards` shards; None if no shard has a reading.

    Shards without a reading are assumed to have as many rows as the others. `unread` of them have succeeded, with all
    their rows done; the others have done none. The slowest shard decides the time left, so one unknown shard means no
    estimate.
    """
    if not paces:
        return None
    last = [pace.last for pace in paces]
    share = sum(reading.total for reading in last) / len(last)
    total = round(share * max(shards, len(last) + unread))
    done = round(sum(reading.done for reading in last) + share * unread)
    left = [pace.seconds_left(now) for pace in paces if pace.last.done < pace.last.total]
    known = [seconds for seconds in left if seconds is not None]
    sure = known and len(known) == len(left) and len(last) + unread >= shards
    return StageProgress(done=done, total=total, unit=last[0].unit, eta_seconds=max(known) if sure else None)
