"""The console of the command line: as wide as the terminal, with unbroken lines if there is none."""

from __future__ import annotations

import sys

from rich.console import Console

UNBROKEN = 100_000
"""Columns if the output is no terminal: a program reads each line whole, however long."""


def open_console(stderr: bool = False) -> Console:
    """A console on standard output, or on standard error."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else UNBROKEN)


def say(console: Console, line: str, style: str | None = None) -> None:
    """Print one line as it is: no markup, no emoji for codes, no colours for numbers, wrapped by the terminal alone."""
    console.print(line, style=style, highlight=False, markup=False, emoji=False, soft_wrap=True)
