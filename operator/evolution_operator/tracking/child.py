"""A process of its own that keeps a tracker up to date while the local driver drives a run.

    python -m evolution_operator.tracking.child TRACKER FILE

The driver writes what it knows of the run to FILE (`Snapshot`), and then one byte to standard input. At the end of the
input, the newest snapshot is sent if it was not. Exit code 0: the tracker has everything.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, BinaryIO

from evolution_jobs.contract.document import Document
from evolution_jobs.contract.errors import StageError
from evolution_jobs.contract.stage import RunRef
from evolution_jobs.store.open import open_store

from ..api.spec import EvolutionRunSpec, TrackerName
from ..api.status import RunStatus
from ..results.figures import read_figures
from ..results.find import results_of_status
from .record import record_of
from .trackers import TRACKERS, send

CHUNK = 4096
FAULT = "error: "
"""How the line begins that says why the tracker lacks something."""


class Snapshot(Document):
    """A run as its driver knows it."""

    run: RunRef
    spec: EvolutionRunSpec
    status: RunStatus


def main(tracker: TrackerName, file: Path, wakes: BinaryIO) -> int:
    """Send the newest snapshot at each wake-up. A failure is told, and the next wake-up tries again."""
    sent: dict[str, str] = {}
    whole = True
    # A read takes all wake-ups that have come while the last snapshot was sent.
    while wakes.read1(CHUNK):  # type: ignore[attr-defined]
        whole = _send(tracker, Snapshot.stored(file.read_bytes()), sent)
    if not whole:
        whole = _send(tracker, Snapshot.stored(file.read_bytes()), sent)
    return 0 if whole else 1


def _send(tracker: TrackerName, snapshot: Snapshot, sent: dict[str, str]) -> bool:
    """Send a snapshot; `sent` is updated. False if it failed."""
    try:
        results = results_of_status(open_store(snapshot.spec.storage), snapshot.run, snapshot.status, snapshot.spec)
        record = record_of(results, read_figures(results))
        if record is not None:
            send(tracker, record, sent)
            sent |= {stage.id: stage.key for stage in record.stages}
    except StageError as error:
        print(f"{FAULT}{error.reason}: {error}", file=sys.stderr, flush=True)  # noqa: T201 -- its log
        return False
    return True


def _arguments(values: list[str]) -> tuple[TrackerName, Path]:
    name, file = values
    known: dict[str, Any] = {each: each for each in TRACKERS}
    return known[name], Path(file)


if __name__ == "__main__":
    sys.exit(main(*_arguments(sys.argv[1:]), sys.stdin.buffer))
