"""Stage processes: each runs one stage, or one shard of it, and takes neither the driver nor another stage with it.

prepare gets a process of its own at once. All others need torch, transformers and trl, and are forked from the warm
server (`server`), which imports them in the meantime.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import Protocol

from evolution_jobs.contract.manifest import Report
from evolution_jobs.contract.stage import StageSpec
from pydantic import ValidationError

from ..planner.progress import Reading, Waiting, read_line
from .child import Request


class Process(Protocol):
    """A process of this machine."""

    @property
    def sentinel(self) -> int | socket.socket:
        """Readable when it has ended, and perhaps before."""
        ...

    @property
    def exitcode(self) -> int | None:
        """None while it runs; negative for a signal."""
        ...

    def terminate(self) -> None:
        """Send SIGTERM."""
        ...

    def kill(self) -> None:
        """Send SIGKILL."""
        ...

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most `timeout` seconds."""
        ...

    def close(self) -> None:
        """Release its descriptors once it has ended."""
        ...


class Started:
    """A process that this one has started."""

    def __init__(self, module: str, *arguments: str, descriptors: tuple[int, ...], errors: int | None = None) -> None:
        """Run `python -m MODULE ARGUMENTS` with these descriptors and standard error."""
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", f"{__package__}.{module}", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=descriptors,
            # Ctrl-C is the driver's: it lets stages save.
            process_group=0,
        )
        self.sentinel = os.pidfd_open(self._popen.pid)

    @property
    def exitcode(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._popen.poll()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._popen.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._popen.kill()

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most `timeout` seconds."""
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return

    def close(self) -> None:
        """Release its descriptors once it has ended."""
        os.close(self.sentinel)


class Forked:
    """A process that the warm server forks, as soon as it has imported the libraries."""

    def __init__(self, server: Started, news: socket.socket, server_died: Callable[[int], None]) -> None:
        """`news` is what `server` says of the process; `server_died` is told its exit code, where it ends first."""
        self._server_died = server_died
        self._server = server
        self._news = news
        self._pidfd: int | None = None
        self._exitcode: int | None = None

    @property
    def sentinel(self) -> socket.socket:
        """Readable when it has ended, and when it has started."""
        return self._news

    @property
    def exitcode(self) -> int | None:
        """None while it runs or waits for the server; negative for a signal; the server's own where that has died."""
        while self._exitcode is None and wait([self._news], 0):
            message, descriptors, _, _ = socket.recv_fds(self._news, 64, 1)
            if descriptors:
                self._pidfd = descriptors[0]
            elif message:
                self._exitcode = int(message)
            else:
                self._server.join()
                self._exitcode = self._server.exitcode or 1
                self._server_died(self._exitcode)
        return self._exitcode

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.exitcode is not None:
            return
        if self._pidfd is None:
            # It has not begun. Should the server fork it yet, it ends at once: its channel is closed by then.
            self._exitcode = -number
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most `timeout` seconds."""
        ends = None if timeout is None else time.monotonic() + timeout
        while self.exitcode is None:
            left = None if ends is None else ends - time.monotonic()
            if not wait([self._news], None if left is None else max(0.0, left)):
                return

    def close(self) -> None:
        """Release its descriptors once it has ended."""
        self._news.close()
        if self._pidfd is not None:
            os.close(self._pidfd)


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
        """What the stage said at its end; None where it could not."""
        try:
            return Report.stored(self._report.read_bytes())
        except (OSError, ValidationError):
            return None

    def read(self) -> None:
        """Take what the stage has printed: what it says of itself is kept, everything else goes to the log."""
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
        """Wait for its end; False where it still runs."""
        self._process.join(timeout)
        return self._process.exitcode is not None

    def close(self) -> None:
        """Release its descriptors once it has ended."""
        self.read()
        self._channel.close()
        self._process.close()


class ProcessServer(Protocol):
    """What starts stage processes."""

    def start(
        self, spec: StageSpec, log: Path, report: Path, environment: Mapping[str, str], threads: int
    ) -> StageProcess:
        """Start a process for this stage; `environment` is added to its own."""
        ...

    def warm(self) -> None:
        """Get ready for later stages, in the background."""
        ...

    def close(self) -> None:
        """End what it keeps for later stages."""
        ...


class LocalServer:
    """Starts stage processes on this machine. None of its calls waits."""

    def __init__(self, log: Path) -> None:
        """`log` takes what the warm server's libraries print while they are imported: the terminal is the driver's."""
        self._log = log
        self._warm: Started | None = None
        self._requests: socket.socket | None = None

    def start(
        self, spec: StageSpec, log: Path, report: Path, environment: Mapping[str, str], threads: int
    ) -> StageProcess:
        """Start a process for this stage; `environment` is added to this process's own."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        asked = Request(
            spec=spec.model_dump_json(by_alias=True, exclude_none=True),
            log=str(log),
            report=str(report),
            environment=dict(environment),
            threads=threads,
        )
        request = _memory_file(asked.model_dump_json().encode())
        try:
            process = (self._spawn if spec.kind == "prepare" else self._fork)(request, theirs.fileno(), log)
        finally:
            os.close(request)
            theirs.close()
        return StageProcess(process, ours, log, report)

    def warm(self) -> None:
        """Let the warm server import, where there was none yet; one that has died is replaced when a stage needs it."""
        if self._warm is None:
            self._warm_server()

    def close(self) -> None:
        """End the warm server. Stages that it has forked go on."""
        if self._warm is not None and self._requests is not None:
            self._requests.close()
            self._warm.kill()
            self._warm.join()
            self._warm.close()
            self._warm = None

    def _spawn(self, request: int, channel: int, log: Path) -> Process:
        # What goes wrong before the process redirects its output must not be lost.
        with log.open("ab") as errors:
            arguments = (str(request), str(channel))
            return Started("child", *arguments, descriptors=(request, channel), errors=errors.fileno())

    def _fork(self, request: int, channel: int, log: Path) -> Process:
        server, requests = self._warm_server()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                socket.send_fds(requests, [b"+"], [request, channel, theirs.fileno()])
            except ConnectionError:
                # It has just died, which the process says.
                pass
        return Forked(
            server,
            ours,
            lambda code: _note_end(log, f"the warm server ended with exit code {code}; its log is {self._log}"),
        )

    def _warm_server(self) -> tuple[Started, socket.socket]:
        """The warm server, started where it does not run."""
        if self._warm is None or self._requests is None or self._warm.exitcode is not None:
            self.close()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs, self._log.open("ab") as errors:
                descriptor = theirs.fileno()
                self._warm = Started("server", str(descriptor), descriptors=(descriptor,), errors=errors.fileno())
            self._requests = ours
        return self._warm, self._requests


def _memory_file(content: bytes) -> int:
    """A descriptor of a file without a name that holds this."""
    descriptor = os.memfd_create("request")
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(content)
        file.flush()
        file.seek(0)
    return descriptor


def _note_end(log: Path, line: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
