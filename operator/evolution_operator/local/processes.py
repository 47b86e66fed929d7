"""Stage processes forked from one warm server that has imported the heavy libraries once.

The server is the standard library's (multiprocessing's forkserver): a stage that crashes or runs out of memory takes
neither the server nor the driver with it.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import socket
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, Protocol

from evolution_jobs.contract.manifest import Report
from evolution_jobs.contract.stage import StageSpec
from pydantic import ValidationError

from . import child


class StageProcess:
    """One process of one attempt: a whole stage, or one shard of it."""

    def __init__(self, process: ForkServerProcess, channel: socket.socket, log: Path, report: Path) -> None:
        self._process = process
        self._channel = channel
        self._report = report
        self._pending = b""
        self.log = log
        self.progress: dict[str, Any] | None = None
        """Last progress line: stage, shard, done, total, unit."""

    @property
    def channel(self) -> socket.socket:
        """Readable when there is output."""
        return self._channel

    @property
    def sentinel(self) -> int:
        """Readable when the process has ended."""
        return self._process.sentinel

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.exitcode

    @property
    def report(self) -> Report | None:
        """What the stage said at its end; None where it could not."""
        try:
            return Report.stored(self._report.read_bytes())
        except (OSError, ValidationError):
            return None

    def read(self) -> None:
        """Take what the stage has printed: progress is kept, everything else goes to the log."""
        for line in self._lines():
            try:
                document = json.loads(line)
            except ValueError:
                document = None
            if isinstance(document, dict) and isinstance(document.get("progress"), dict):
                self.progress = document["progress"]
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
        """Wait for its end; False where it still runs."""
        self._process.join(timeout)
        return self._process.exitcode is not None

    def close(self) -> None:
        """Release its descriptors once it has ended."""
        self.read()
        self._channel.close()


class ProcessServer(Protocol):
    """What starts stage processes."""

    def start(
        self, spec: StageSpec, log: Path, report: Path, environment: Mapping[str, str], threads: int
    ) -> StageProcess:
        """Start a process for this stage; `environment` is added to its own."""
        ...


class WarmServer:
    """Starts stage processes. The first start waits until the libraries are imported."""

    def __init__(self) -> None:
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([f"{__package__}.preload"])

    def start(
        self, spec: StageSpec, log: Path, report: Path, environment: Mapping[str, str], threads: int
    ) -> StageProcess:
        """Fork a process for this stage; `environment` is added to the server's own."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        variables = {**environment, "OMP_NUM_THREADS": str(threads)}
        process = self._context.Process(
            target=child.main,
            args=(spec.model_dump_json(by_alias=True, exclude_none=True), theirs, str(log), str(report), variables),
            name=spec.stage,
        )
        _start_server()
        process.start()
        theirs.close()
        return StageProcess(process, ours, log, report)


def _start_server() -> None:
    """Start the server where it does not run. Until `preload` sees to it, Ctrl-C waits: it would leave a trace."""
    # The server's helper first: starting it lets the signal through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
