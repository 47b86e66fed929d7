"""What the end of a stage's log says: how far it is, or that it waits. Pure."""

from __future__ import annotations

import json

from ..planner.progress import Reading, read_progress, read_waiting
from .observe import Note


def last_words(text: str, now: float) -> Reading | Note | None:
    """The last line that a stage says of itself; None where there is none.

    A reading for `{"progress": {"done": 40, "total": 96, "unit": "rows", ...}}`, read at `now` (monotonic seconds), and
    a note for `{"waiting": {"run": "namespace/name", ...}}`.
    """
    for line in reversed(text.splitlines()):
        if not line.startswith(('{"progress"', '{"waiting"')):
            continue
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told.get("waiting"), dict):
            return read_waiting(told["waiting"])
        reading = read_progress(told["progress"], now) if isinstance(told.get("progress"), dict) else None
        if reading is not None:
            return reading
    return None
