"""Where the command line prints: as wide as the terminal, and in unbroken lines where there is none."""

from __future__ import annotations

import sys

from rich.console import Console

UNBROKEN = 100_000
"""Columns where nobody reads along: a line that a program reads is one line, however long."""


def open_console(stderr: bool = False) -> Console:
    """A console on standard output, or on standard error."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else UNBROKEN)
