"""A bar for bytes that are read from a storage. Without a terminal, nothing is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from evolution_jobs.store.base import Watch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


@contextmanager
def transfer_bar(console: Console, what: str, size: int) -> Iterator[Watch]:
    """Show how many of `size` bytes are read. The yielded function is called with each further number of bytes."""
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task(what, total=size)
        yield lambda count: bars.advance(task, count)
