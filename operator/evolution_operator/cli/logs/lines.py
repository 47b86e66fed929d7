"""Lines of logs, as a terminal may show them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from evolution_jobs.printable import printable

LONGEST = 1 << 20
"""Bytes of a line after which it is broken."""


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    """The lines in pieces of a log. Of a bar that was redrawn in place, only the last drawing is kept."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from map(_shown, whole)
        if len(rest) > LONGEST:
            yield _shown(rest)
            rest = b""
    if rest:
        yield _shown(rest)


def _shown(line: bytes) -> str:
    last = line.rstrip(b"\r").rpartition(b"\r")[2]
    return last.decode("utf-8", "replace")


def show(prefix: str, line: str) -> None:
    """Print one line. What a terminal would obey is replaced: answers of models are in logs."""
    print(f"{prefix}{printable(line, kept=chr(9))}", flush=True)


def tell(line: str) -> None:
    """Print a line about the logs to standard error, so that standard output has the logs alone."""
    print(printable(line), file=sys.stderr, flush=True)
