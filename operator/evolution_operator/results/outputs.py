"""The error for a place on this machine where a command cannot write."""

from __future__ import annotations

from pathlib import Path

from evolution_jobs.contract.errors import PermanentError


def output_error(error: OSError, path: Path) -> PermanentError:
    """What to raise for an error of the file system at a file or directory that the user wants written."""
    where, words = error.filename or path, error.strerror or str(error)
    return PermanentError("OutputUnwritable", f"{where}: {words}; free some space, or name another place")
