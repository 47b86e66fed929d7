"""Runs from Python: read and write run files, drive a run on this machine, find what a run has left."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from evolution_jobs.contract.credentials import tidy_environment
from rich.console import Console

from ..api.run_file import write_documents
from ..api.spec import EvolutionRun
from ..api.validation import load_run, resolve_paths
from ..cli.closing import failures
from ..cli.console import UNBROKEN
from ..cli.drive import drive
from ..cli.named import open_results
from ..cli.options import INTERRUPTED
from ..local.forecast import forecast
from ..local.load import local_run, local_run_of
from ..results.find import results_of_run
from .inline import ReportPage
from .remote import ClusterRun
from .run_results import RunResults
from .tables import plan_frame

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..planner.observed import Run

Reference: TypeAlias = str | Path | EvolutionRun | ClusterRun | RunResults
"""A run: a run file, an EvolutionRun (as this machine drives it), a run on the cluster by its name, or results."""


def load(path: str | Path) -> EvolutionRun:
    """The run in a file, with relative `file://` paths made absolute. Raises RunFileError with every fault of the file."""
    read = load_run(Path(path))
    here = resolve_paths(read, Path(path).resolve().parent)
    return here.model_copy(update={"spec": here.spec.model_copy(update={"model_cache": read.spec.model_cache})})


def save(run: EvolutionRun, path: str | Path) -> Path:
    """Write the run as a run file, for `evolution run -f` and `kubectl apply -f`. Fields that were not set are left out."""
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(write_documents([run.written()]), "utf-8")
    partial.replace(target)
    return target


def run(run: str | Path | EvolutionRun, *, storage: str | Path | None = None, progress: bool = True) -> RunResults:
    """Drive a run on this machine to its end, or continue it: finished stages do not run again.

    `run` is a run file, or an EvolutionRun, whose relative paths are below the current directory. `storage` is a URI or a
    directory in place of `spec.storage.uri`. A run that fails is returned: its `phase` is Failed and `message` says why.

    Raises RunFileError on an invalid file, and StageError (`RunBusy`, and what the store raises). If it is interrupted, it
    lets the stages save, then raises KeyboardInterrupt; the same call continues.
    """
    wanted = _local(run, storage)
    # The stages' processes inherit this environment.
    tidy_environment()
    console = _console(progress)
    try:
        summary, results = drive(wanted, console)
    except KeyboardInterrupt:
        console.print(INTERRUPTED, highlight=False)
        raise
    if summary["phase"] == "Failed":
        for line in failures(summary):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    return RunResults(results, summary)


def plan(run: str | Path | EvolutionRun, *, storage: str | Path | None = None) -> DataFrame:
    """The stages of a run as this machine would run them: which are cached, which are to run, with keys. Changes nothing.

    Raises RunFileError, PermanentError `DependencyMissing` without pandas, and what the store raises.
    """
    return plan_frame(forecast(_local(run, storage)))


def open_run(
    run: Reference,
    *,
    namespace: str | None = None,
    storage: str | Path | None = None,
    endpoint: str | None = None,
) -> RunResults:
    """What a run has left so far: by a run file, an EvolutionRun, or the name of a run.

    A name means a run on the cluster, or with `storage` (a URI or a directory) a run that this storage has. `endpoint` is the
    URL by which this machine reaches the S3 service. It counts for a file or a name, not for an EvolutionRun. Raises RunFileError, PermanentError (`RunUnknown`, `NoCluster`, ...), and what the store raises.
    """
    if isinstance(run, RunResults):
        return run
    if isinstance(run, EvolutionRun):
        return RunResults(results_of_run(_local(run, storage)))
    if isinstance(run, ClusterRun):
        namespace, run = run.namespace, run.name
    place = None if storage is None else str(storage)
    return RunResults(open_results(str(run), namespace, place, endpoint=endpoint))


def figures(
    run: Reference,
    *,
    namespace: str | None = None,
    storage: str | Path | None = None,
    endpoint: str | None = None,
) -> DataFrame:
    """Every figure of every model of a run as a DataFrame. Arguments and errors are those of `open_run`."""
    return open_run(run, namespace=namespace, storage=storage, endpoint=endpoint).figures


def report(
    run: Reference,
    path: str | Path | None = None,
    *,
    namespace: str | None = None,
    storage: str | Path | None = None,
    endpoint: str | None = None,
) -> ReportPage:
    """The report of a run, which a notebook shows; `path` keeps it as a file. Other arguments are those of `open_run`."""
    return open_run(run, namespace=namespace, storage=storage, endpoint=endpoint).report(path)


def _local(run: str | Path | EvolutionRun, storage: str | Path | None) -> Run:
    place = None if storage is None else str(storage)
    if isinstance(run, EvolutionRun):
        return local_run_of(run, Path.cwd(), place)
    return local_run(Path(run), place)


def _console(progress: bool) -> Console:
    """Bars on a terminal, and plain lines in a notebook, which keeps what a cell has printed."""
    width = None if sys.stdout.isatty() else UNBROKEN
    return Console(file=sys.stdout, width=width, force_jupyter=False, quiet=not progress)
