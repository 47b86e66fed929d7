"""A terminal in memory (pyte) at the other end of a real pseudo-terminal, and the lines of a program on it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyte

RESIZED = re.compile(rb"\x1b\[8;(\d+);(\d+)t")
"""What a program writes when it has set another window size: xterm's sequence for lines and columns."""


@dataclass(frozen=True)
class FinalScreen:
    """The terminal once a program has ended, with the lines that were scrolled out."""

    code: int
    lines: list[str]
    """Lines without trailing blanks, those scrolled out included; no empty ones at the end."""
    cursor_hidden: bool


def run_on_terminal(
    script: str, columns: int = 110, lines: int = 30, environment: Mapping[str, str] | None = None
) -> FinalScreen:
    """Run a Python program on a terminal of that size, to its end."""
    screen = pyte.HistoryScreen(columns, lines, history=10_000)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    variables = {**os.environ, "TERM": "xterm-256color", **(environment or {})}
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        variables.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=variables,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    os.close(theirs)
    data = _all_of(ours)
    os.close(ours)
    while found := RESIZED.search(data):
        stream.feed(data[: found.start()])
        screen.resize(int(found[1]), int(found[2]))
        data = data[found.end() :]
    stream.feed(data)
    above = ["".join(row[column].data for column in range(len(row))) for row in screen.history.top]
    shown = [line.rstrip() for line in [*above, *screen.display]]
    while shown and not shown[-1]:
        shown.pop()
    return FinalScreen(process.wait(timeout=60), shown, screen.cursor.hidden)


def _all_of(descriptor: int) -> bytes:
    data = b""
    while True:
        try:
            more = os.read(descriptor, 65536)
        except OSError:  # Linux returns EIO once the other end is closed
            return data
        if not more:
            return data
        data += more
