"""What the end of a stage's log says: how far it is, or that it waits. Pure."""

from __future__ import annotations

import json

from ...planner.progress import Reading, Waiting, read_progress, read_waiting


def last_words(text: str, now: float) -> Reading | Waiting | None:
    """The last line that a stage says of itself; None where there is none.

    They are `{"progress": {"done": 40, "total": 96, "unit": "rows", ...}}`, read at `now` (monotonic seconds), and
    `{"waiting": {"run": "namespace/name", ...}}`.
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
