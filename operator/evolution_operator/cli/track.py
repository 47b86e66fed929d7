"""`evolution track`: sends a run to an experiment tracker, once or until it ends."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer
from evolution_jobs.contract.errors import PermanentError, StageError, TransientError
from evolution_jobs.printable import printable

from ..results.figures import read_figures
from ..results.results import Results
from ..tracking.record import Record, record_of
from ..tracking.trackers import send
from .console import open_console, say
from .named import EndpointOption, NamespaceOption, RunArgument, open_results
from .options import StorageOption

POLL_SECONDS = 30.0
"""Seconds between two looks at a run that is followed."""
MISSES = 10
"""Looks in a row that may find the storage or the API server unreachable: five minutes."""


class TrackerChoice(StrEnum):
    """Supported trackers."""

    mlflow = "mlflow"
    wandb = "wandb"
    trackio = "trackio"


def track(
    run: RunArgument,
    to: Annotated[TrackerChoice | None, typer.Option("--to", help="By default spec.tracking.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run is Complete or Failed.")] = False,
    namespace: NamespaceOption = None,
    storage: StorageOption = None,
    endpoint: EndpointOption = None,
) -> None:
    """Send figures, losses and settings of a run to MLflow, W&B or Trackio: only what the tracker lacks."""
    console = open_console()
    sent: dict[str, str] = {}
    last: Record | None = None
    missed = 0
    while True:
        try:
            results = open_results(run, namespace, storage, endpoint=endpoint)
            tracker = _tracker(results, to)
            record, missed = record_of(results, read_figures(results)), 0
        except StageError as error:
            missed += 1
            if not follow or missed >= MISSES or not _may_pass(error):
                raise
            say(console, printable(f"{error.reason}: {error} ({missed} of {MISSES} in a row)"))
            time.sleep(POLL_SECONDS)
            continue
        if record is None:
            say(console, f"{results.name}: nothing to send before prepare has finished")
        elif record != last:
            last = record
            stages = send(tracker.value, record, sent)
            sent |= {stage.id: stage.key for stage in record.stages}
            say(
                console,
                f"{record.group}: {stages} stages sent to {tracker}, {len(record.stages)} in all ({record.phase})",
            )
        if not follow or (record is not None and record.ended):
            return
        time.sleep(POLL_SECONDS)


def _may_pass(error: StageError) -> bool:
    return isinstance(error, TransientError) or error.reason == "ClusterUnreachable"


def _tracker(results: Results, to: TrackerChoice | None) -> TrackerChoice:
    if to is not None:
        return to
    if results.spec is None or results.spec.tracking is None:
        raise PermanentError("TrackerInput", f"{results.name}: spec.tracking is not set: name a tracker with --to")
    return TrackerChoice(results.spec.tracking)
