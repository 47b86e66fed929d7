"""Starts stage processes: each runs one stage, or one shard of it, and ends alone if it crashes.

prepare gets a process of its own at once. All others need torch, transformers and trl, and are forked from the warm
server (`warm_server`), which imports them in the meantime.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from evolution_jobs.contract.stage import StageSpec

from .child import Request
from .handles import Forked, Process, Spawned
from .stage_process import StageProcess


class Launcher(Protocol):
    """Starts stage processes."""

    def start(
        self, spec: StageSpec, log: Path, report: Path, environment: Mapping[str, str], threads: int
    ) -> StageProcess:
        """Start a process for this stage; `environment` is added to its own."""
        ...

    def warm(self) -> None:
        """Prepare for later stages, in the background."""
        ...

    def close(self) -> None:
        """End what is kept ready for later stages."""
        ...


class LocalLauncher:
    """Starts stage processes on this machine. None of its calls waits."""

    def __init__(self, log: Path) -> None:
        """`log` is the file for what the warm server's libraries print while they are imported."""
        self._log = log
        self._warm: Spawned | None = None
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
        """Start the warm server unless it was started before; one that has died is replaced when a stage needs it."""
        if self._warm is None:
            self._warm_server()

    def close(self) -> None:
        """End the warm server. Stages that it has forked keep running."""
        if self._warm is not None and self._requests is not None:
            self._requests.close()
            self._warm.kill()
            self._warm.join()
            self._warm.close()
            self._warm = None

    def _spawn(self, request: int, channel: int, log: Path) -> Process:
        # Errors before the process redirects its output go to the log, too.
        with log.open("ab") as errors:
            arguments = (str(request), str(channel))
            return Spawned("child", *arguments, descriptors=(request, channel), errors=errors.fileno())

    def _fork(self, request: int, channel: int, log: Path) -> Process:
        server, requests = self._warm_server()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                socket.send_fds(requests, [b"+"], [request, channel, theirs.fileno()])
            except ConnectionError:
                # The server has just died; the handle reports it.
                pass
        return Forked(
            server,
            ours,
            lambda code: _note_end(log, f"the warm server ended with exit code {code}; its log is {self._log}"),
        )

    def _warm_server(self) -> tuple[Spawned, socket.socket]:
        """The warm server, started if it is not running."""
        if self._warm is None or self._requests is None or self._warm.exitcode is not None:
            self.close()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs, self._log.open("ab") as errors:
                descriptor = theirs.fileno()
                self._warm = Spawned("warm_server", str(descriptor), descriptors=(descriptor,), errors=errors.fileno())
            self._requests = ours
        return self._warm, self._requests


def _memory_file(content: bytes) -> int:
    """A descriptor of an unnamed file with this content."""
    descriptor = os.memfd_create("request")
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(content)
        file.flush()
        file.seek(0)
    return descriptor


def _note_end(log: Path, line: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
