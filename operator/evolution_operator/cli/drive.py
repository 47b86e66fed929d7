"""Drives one run on this machine and shows its progress. `evolution run` and `evolution experiment run` share it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from evolution_jobs.contract.errors import TransientError
from evolution_jobs.store.open import open_store
from rich.console import Console

from ..local.driver import Driver, Watcher, run_directory
from ..local.machine import Machine
from ..planner.actions import Plan
from ..planner.observed import Run
from ..reporting.publish import keep_report
from ..results.find import results_of_status
from ..results.results import Results
from ..results.summary import summarise
from ..tracking.background import tracked
from .display import Display


class Driven(NamedTuple):
    """What became of a run."""

    summary: dict[str, Any]
    results: Results


def drive(wanted: Run, console: Console, *watchers: Watcher) -> Driven:
    """Run until Complete, Failed or Suspended. `watchers` get each plan after the console has shown it.

    Raises StageError (`RunBusy`, `StateUnwritable`, and what the store raises), and KeyboardInterrupt once stages have saved.
    """
    started = time.monotonic()
    store = open_store(wanted.spec.storage)
    with run_directory(wanted.spec.storage.uri, wanted.ref.namespace, wanted.ref.name) as directory:
        try:
            with Display(console) as display:
                display.print_line(
                    f"{wanted.ref.namespace}/{wanted.ref.name}: artifacts in {store.uri}, logs in {directory}"
                )
                driver = Driver(wanted, store, Machine.here(), directory, display.print_line)
                with tracked(wanted, directory, display.print_line) as observe:
                    status = driver.drive(_all([display.watch, observe, *watchers]))
        except OSError as error:
            # Stages report errors of the store themselves: this is the driver's own directory.
            words = error.strerror or str(error)
            raise TransientError(
                "StateUnwritable", f"{directory}: {words}; free some, or set XDG_STATE_HOME"
            ) from error
        results = results_of_status(store, wanted.ref, status, wanted.spec)
        summary = summarise(wanted, status, results, time.monotonic() - started)
    if status.phase in ("Complete", "Failed"):
        summary["report"], summary["reportMissing"] = keep_report(results)
    return Driven(summary, results)


def _all(watchers: Sequence[Watcher]) -> Watcher:
    def watch(plan: Plan) -> None:
        for watcher in watchers:
            watcher(plan)

    return watch
