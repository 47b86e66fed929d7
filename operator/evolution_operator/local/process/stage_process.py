"""A stage's process as the driver sees it: its output, its log, its report and its end."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

from evolution_jobs.contract.manifest import Report
from pydantic import ValidationError

from ...planner.progress import Reading, Waiting, read_line
from .handles import Process


class StageProcess:
    """One process of one attempt: a whole stage, or one shard of it."""

    def __init__(self, process: Process, channel: socket.socket, log: Path, report: Path) -> None:
        self._process = process
        self._channel = channel
        self._report = report
        self._pending = b""
        self.log = log
        self.progress: Reading | None = None
        """The last progress line."""
        self.waiting: Waiting | None = None
        """The last line about waiting, unless a progress line has followed."""

    @property
    def channel(self) -> socket.socket:
        """Readable when there is output."""
        return self._channel

    @property
    def sentinel(self) -> int | socket.socket:
        """Readable when the process has ended, and perhaps before."""
        return self._process.sentinel

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.exitcode

    @property
    def report(self) -> Report | None:
        """The stage's report at its end; None if it left none."""
        try:
            return Report.stored(self._report.read_bytes())
        except (OSError, ValidationError):
            return None

    def read(self) -> None:
        """Read what the stage has printed: progress and waiting are kept, everything else goes to the log."""
        for line in self._lines():
            said = read_line(line, time.monotonic())
            if isinstance(said, Reading):
                self.progress, self.waiting = said, None
            elif said is not None:
                self.waiting = said
            else:
                with self.log.open("ab") as log:
                    log.write(line + b"\n")

    def _lines(self) -> Iterator[bytes]:
        while True:
            try:
                data = self._channel.recv(65536)
            except (BlockingIOError, ConnectionError):
                return
            if not data:
                return
            *lines, self._pending = (self._pending + data).split(b"\n")
            yield from lines

    def terminate(self) -> None:
        """Ask it to save and stop (SIGTERM)."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._process.kill()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for its end; False if it is still running."""
        self._process.join(timeout)
        return self._process.exitcode is not None

    def close(self) -> None:
        """Release its descriptors once it has ended."""
        self.read()
        self._channel.close()
        self._process.close()
