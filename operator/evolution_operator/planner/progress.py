"""How far an attempt is, over its shards, and how long it may still take. Pure: the caller tells the time."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from ..api.status import StageProgress

EVIDENCE = 2
"""Rows or steps that must have been finished while somebody watched before a time is estimated from them."""
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
    """What a line about waiting says: for which run, `namespace/name`; None where the shard no longer waits."""

    run: str | None

    def note(self) -> tuple[str, str] | None:
        """Reason and message of what holds the attempt up."""
        if self.run is None:
            return None
        what = "its result is taken, or its work taken over if it dies"
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
    """What was seen of one shard: the first reading, and the reading with which it last moved on.

    Rows of the first reading do not count: they were finished by an earlier attempt, or cost nothing because they were
    dropped before the model was asked.
    """

    first: Reading
    last: Reading

    @classmethod
    def since(cls, reading: Reading) -> Pace:
        """A shard that is heard of for the first time."""
        return cls(reading, reading)

    def after(self, reading: Reading) -> Pace:
        """The pace after one more reading; a shard that has fewer rows than before has begun again."""
        if reading.done < self.last.done:
            return Pace.since(reading)
        moved_at = reading.at if reading.done > self.last.done else self.last.at
        return Pace(self.first, replace(reading, at=moved_at))

    def ended(self) -> Pace:
        """The pace of a shard that has ended well, whatever was read of it last."""
        return Pace(self.first, replace(self.last, done=self.last.total))

    def seconds_left(self, now: float) -> int | None:
        """Estimated seconds until the shard ends, at least 1; None where nothing can be said.

        Nothing can be said before `EVIDENCE` rows were seen to finish, and once the estimate has run out while rows
        remain, because the pace that it came from holds no longer.
        """
        seen, remaining = self.last.done - self.first.done, self.last.total - self.last.done
        if seen < EVIDENCE or remaining <= 0 or self.last.unit not in EVEN_UNITS:
            return None
        seconds = (self.last.at - self.first.at) / seen * remaining - (now - self.last.at)
        return math.ceil(seconds) if seconds > 0 else None


def attempt_progress(paces: Collection[Pace], shards: int, unread: int, now: float) -> StageProgress | None:
    """Progress of an attempt of `shards` shards; None where none was heard of.

    Shards that were not heard of are taken to have as many rows as the others. `unread` of them have ended well and
    have done theirs, the others none. The slowest shard decides the time left, so there is none while one is unknown.
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
