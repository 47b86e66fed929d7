"""The main function of a stage's process: it runs one stage and does not outlive the driver.

    python -m evolution_operator.local.process.child REQUEST CHANNEL

Both are descriptors: a file with the request (see `Request`), and the stream socket to the driver.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from typing import NoReturn

from evolution_jobs.contract.variables import TERMINATION_LOG_VARIABLE
from pydantic import BaseModel


class Request(BaseModel):
    """What the driver asks the process to run."""

    spec: str
    """The StageSpec as JSON."""
    log: str
    """File that takes standard error."""
    report: str
    """File that takes the termination message."""
    environment: dict[str, str]
    """Variables that are added to the process's own."""
    threads: int
    """OpenMP threads."""


def main(request: int, channel: int) -> None:
    """Run one stage and exit with its code.

    The channel carries the stage's standard output to the driver; when the driver's end closes, however it died, this
    process ends too.
    """
    stream = socket.socket(fileno=channel)
    threading.Thread(target=_exit_with, args=(stream,), daemon=True).start()
    with os.fdopen(request, "rb") as file:
        asked = Request.model_validate_json(file.read())
    _redirect(stream, asked.log)
    _raise_oom_score()
    variables = {"OMP_NUM_THREADS": str(asked.threads), TERMINATION_LOG_VARIABLE: asked.report}
    os.environ.update(asked.environment, **variables)

    from evolution_jobs.contract.stage import StageSpec
    from evolution_jobs.libraries import set_library_defaults
    from evolution_jobs.redaction import redact_output
    from evolution_jobs.runner import run_stage

    set_library_defaults()
    redact_output()
    # torch read the variable when the server imported it, so a forked process has to set it again.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(asked.threads)
    code = run_stage(StageSpec.model_validate_json(asked.spec))
    sys.stdout.flush()
    sys.stderr.flush()
    # Interpreter shutdown with torch loaded can take seconds, and everything worth keeping is in the store.
    os._exit(code)


def start_afresh(request: int, channel: int) -> NoReturn:
    """Make this process a new one that has imported nothing, and runs the same request."""
    for descriptor in (request, channel):
        os.set_inheritable(descriptor, True)
    os.execv(sys.executable, [sys.executable, "-P", "-m", __name__, str(request), str(channel)])  # noqa: S606


def _redirect(channel: socket.socket, log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    os.dup2(channel.fileno(), 1)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _exit_with(channel: socket.socket) -> None:
    channel.recv(1)
    scratch = sys.modules.get("evolution_jobs.attempt.scratch")
    if scratch is not None:
        scratch.discard()
    os._exit(137)


def _raise_oom_score() -> None:
    """If memory runs out, let the kernel end this stage before the driver or the warm server."""
    try:
        Path("/proc/self/oom_score_adj").write_text("500")
    except OSError:
        return


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
