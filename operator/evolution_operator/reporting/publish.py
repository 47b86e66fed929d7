"""Keeps a run's report in its storage, at the end of a run on this machine. Nothing that goes wrong here fails the run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from evolution_jobs.contract.errors import StageError
from evolution_jobs.contract.names import REPORT, pointers_prefix
from evolution_jobs.redaction import words_of

from ..results.results import Results
from . import load_writer


class Kept(NamedTuple):
    """Where the report is, or why there is none."""

    uri: str | None = None
    missing: str | None = None


def keep_report(results: Results) -> Kept:
    """Write the run's report to `runs/<namespace>/<name>/report.html` of its storage."""
    location = f"{pointers_prefix(results.namespace, results.name)}{REPORT}"
    try:
        write_report = load_writer()
        with tempfile.TemporaryDirectory(prefix="evolution-report-") as scratch:
            path = Path(scratch) / REPORT
            write_report(results, path)
            results.store.put_file(path, location)
    except StageError as error:
        return Kept(missing=f"{error.reason}: {error}")
    except Exception as error:  # noqa: BLE001 -- the run has its results, whatever is wrong with their report
        return Kept(missing=f"{type(error).__name__}: {words_of(error)}")
    return Kept(uri=f"{results.store.uri}/{location}")
