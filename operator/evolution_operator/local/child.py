"""What runs in a stage's process, forked from the warm server: one stage, isolated, that does not outlive the driver."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path


def main(spec: str, channel: socket.socket, log: str, report: str, environment: dict[str, str]) -> None:
    """Run one stage and exit with its code.

    `spec` is the StageSpec as JSON. `channel` carries the stage's standard output to the driver; when the driver's end
    closes, however it died, this process ends too. `log` takes standard error, `report` the termination message.
    """
    _redirect(channel, log)
    threading.Thread(target=_die_with, args=(channel,), daemon=True).start()
    _prefer_as_victim()
    os.environ.update(environment, EVOLUTION_TERMINATION_LOG=report)

    from evolution_jobs.contract.stage import StageSpec
    from evolution_jobs.runner import run_stage

    threads = environment.get("OMP_NUM_THREADS")
    # torch read the variable when the server imported it; a forked process has to be told again.
    if threads and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(threads))
    code = run_stage(StageSpec.model_validate_json(spec))
    sys.stdout.flush()
    sys.stderr.flush()
    # Interpreter shutdown with torch loaded can take seconds, and everything worth keeping is in the store.
    os._exit(code)


def _redirect(channel: socket.socket, log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    os.dup2(channel.fileno(), 1)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _die_with(channel: socket.socket) -> None:
    channel.recv(1)
    os._exit(137)


def _prefer_as_victim() -> None:
    """Where memory runs out, the kernel is to end this stage, not the driver or its server."""
    try:
        Path("/proc/self/oom_score_adj").write_text("500")
    except OSError:
        return
