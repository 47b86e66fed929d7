"""Keeps a run's report in its storage, at the end of a run on this machine. Nothing that goes wrong here fails the run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from evolution_jobs.contract.errors import StageError
from evolution_jobs.contract.names import REPORT, pointers_prefix
from evolution_jobs.redaction import words_of
from evolution_jobs.store.base import Store

from ..api.status import RunStatus
from ..planner.observed import Run
from ..results.find import results_of_status
from . import load_writer


class Kept(NamedTuple):
    """Where the report is, or why there is none."""

    uri: str | None = None
    missing: str | None = None


def keep_report(run: Run, status: RunStatus, store: Store) -> Kept:
    """Write the run's report to `runs/<namespace>/<name>/report.html` of the storage."""
    location = f"{pointers_prefix(run.ref.namespace, run.ref.name)}{REPORT}"
    try:
        write_report = load_writer()
        with tempfile.TemporaryDirectory(prefix="evolution-report-") as scratch:
            path = Path(scratch) / REPORT
            write_report(results_of_status(store, run.ref, status, run.spec), path)
            store.put_file(path, location)
    except StageError as error:
        return Kept(missing=f"{error.reason}: {error}")
    except Exception as error:  # noqa: BLE001 -- the run has its results, whatever is wrong with their report
        return Kept(missing=f"{type(error).__name__}: {words_of(error)}")
    return Kept(uri=f"{store.uri}/{location}")
