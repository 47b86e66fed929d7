"""Exit codes of `evolution`."""

from __future__ import annotations

from collections.abc import Collection

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SUSPENDED = 3
EXIT_INTERRUPTED = 130


def exit_code(phases: Collection[str]) -> int:
    """The exit code after runs that ended in these phases: 0 only if all are Complete."""
    if set(phases) <= {"Complete"}:
        return 0
    return EXIT_SUSPENDED if set(phases) <= {"Complete", "Suspended"} else EXIT_FAILED
