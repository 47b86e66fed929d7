"""`python -m evolution_jobs.rank TASK`: one of several processes that train together; torchrun starts it.

The first rank writes progress, checkpoints and the result. The others compute and are silent; only a failure is told,
in the log and to the process that has started torchrun (`attempt.in_ranks`).
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

from .attempt.failures import failure_report
from .attempt.in_ranks import RESULT, Account, RankTask
from .attempt.rank_failures import RankReport
from .attempt.stop import StopRequest, stop_on_signals
from .attempt.workspace import StoredWorkspace
from .libraries import set_library_defaults
from .redaction import redact_output
from .runner import installed_stage
from .store.open import open_store
from .store.patient import patient

_PR_SET_PDEATHSIG = 1


def main(file: str) -> int:
    """Run one rank of the task in the file. Returns the exit code, which stands for what contract.errors says."""
    set_library_defaults()
    redact_output()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s: %(message)s")
    task = RankTask.model_validate_json(Path(file).read_bytes())
    _end_with(task.launcher)
    rank = int(os.environ["RANK"])
    if rank == 0:
        logging.getLogger("evolution_jobs").setLevel(logging.INFO)
    else:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        with stop_on_signals() as stop:
            _run(task, rank, stop)
    except BaseException as error:  # noqa: BLE001 -- the process's edge: whatever it was, it is reported
        report, code = failure_report(task.spec, error)
        told = RankReport(reason=report.reason, message=report.message, exit_code=code)
        task.report(rank).write_text(told.model_dump_json(by_alias=True), "utf-8")
        return code
    return 0


def _run(task: RankTask, rank: int, stop: StopRequest) -> None:
    from .training.ranks import joined

    store = patient(open_store(task.spec.storage), proven=True, pause=stop.pause)
    directory = task.private(rank)
    directory.mkdir()
    with joined():
        workspace = StoredWorkspace(task.spec, store, task.attempt, directory, stop)
        workspace.inputs, workspace.references = Path(task.inputs), task.references
        stage = installed_stage(task.spec.kind)
        workspace.imported()
        result = stage(workspace)
    if rank == 0:
        assert result is not None, "a stage that trains has a result"
        account = Account(corrupt=workspace.checkpoints.corrupt, moments=workspace.moments)
        task.account.write_text(account.model_dump_json(by_alias=True), "utf-8")
        partial = task.result.with_suffix(".partial")
        partial.write_bytes(RESULT.dump_json(result))
        partial.rename(task.result)


def _end_with(launcher: int) -> None:
    """Ask the kernel to end this process with the one that has started it, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        os._exit(137)


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # Interpreter shutdown with torch loaded can take seconds.
    os._exit(code)
