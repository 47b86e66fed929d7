"""Handles of processes: one that this process has started itself, or one that the warm server has forked."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Protocol


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


class Spawned:
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

    def __init__(self, server: Spawned, reports: socket.socket, server_died: Callable[[int], None]) -> None:
        """`reports` carries what `server` reports of the process; `server_died` is called if the server ends first."""
        self._server_died = server_died
        self._server = server
        self._reports = reports
        self._pidfd: int | None = None
        self._exitcode: int | None = None

    @property
    def sentinel(self) -> socket.socket:
        """Readable when it has ended, and when it has started."""
        return self._reports

    @property
    def exitcode(self) -> int | None:
        """None while it runs or waits for the server; negative for a signal; the server's own where that has died."""
        while self._exitcode is None and wait([self._reports], 0):
            message, descriptors, _, _ = socket.recv_fds(self._reports, 64, 1)
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
            # It has not started. If the server still forks it, it ends at once, because its channel is closed.
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
            if not wait([self._reports], None if left is None else max(0.0, left)):
                return

    def close(self) -> None:
        """Release its descriptors once it has ended."""
        self._reports.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
