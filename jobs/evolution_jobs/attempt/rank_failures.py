"""Which failure of several ranks is the stage's. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ..contract.document import Document
from ..contract.errors import (
    EXIT_KILLED,
    EXIT_PERMANENT,
    EXIT_TERMINATED,
    EXIT_TRANSIENT,
    MEMORY_LEVERS,
    RANK_LOST,
    PermanentError,
    StageError,
    Terminated,
    TransientError,
    failure_kind,
)
from ..contract.stage import StageSpec


class RankReport(Document):
    """Why a rank has failed."""

    reason: str
    message: str
    exit_code: int


def failure(
    spec: StageSpec, codes: Mapping[int, int], reports: Mapping[int, RankReport], out_of_memory: bool
) -> StageError:
    """The error of a stage whose ranks have failed: the most severe one.

    torchrun asks the other ranks to stop once one has failed. So one that has stopped explains nothing, and one that has
    lost another explains little.

    Args:
        spec: the stage.
        codes: the exit code of each rank that has failed, negative for a signal.
        reports: what ranks have said themselves.
        out_of_memory: whether the kernel has killed a process because memory ran out.
    """
    found = [
        _reported(reports[rank]) if rank in reports else _silent(spec, rank, codes[rank], out_of_memory)
        for rank in sorted({*codes, *reports})
    ]
    order = (EXIT_PERMANENT, EXIT_TRANSIENT, EXIT_TERMINATED)
    found.sort(key=lambda error: (order.index(error.exit_code), error.reason == RANK_LOST))
    return found[0] if found else TransientError("ProcessDied", "the training processes ended without a result")


def _silent(spec: StageSpec, rank: int, code: int, out_of_memory: bool) -> StageError:
    """The error of a rank that has left no report."""
    who = f"rank {rank} of {spec.ranks.count}"
    if code in EXIT_KILLED:
        if out_of_memory:
            remedy = f"{MEMORY_LEVERS[spec.kind]}, or give the stage more memory"
            return TransientError("OutOfMemory", f"{who} was killed because memory ran out: {remedy}")
        return TransientError("Killed", f"{who} was killed (SIGKILL)")
    if failure_kind(code) == "disruption":
        return Terminated("asked to stop before it had begun")
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return TransientError("ProcessDied", f"{who} ended by {how} without a report; see the stage's log")


def _reported(report: RankReport) -> StageError:
    if report.exit_code == EXIT_PERMANENT:
        return PermanentError(report.reason, report.message)
    if report.exit_code == EXIT_TERMINATED:
        return Terminated(report.message)
    return TransientError(report.reason, report.message)
