"""`transformers serve` as a process of its own: an OpenAI-compatible server that this project did not write.

with serving_model(directory) as server:
    teacher = {"url": server.url, "model": server.model}
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.storage.servers import free_port, wait_until_ready


@dataclass(frozen=True)
class ModelServer:
    """Where the server answers."""

    url: str
    model: str
    """The model's name in requests."""
    reported: str
    """The same in answers."""


@contextmanager
def serving_model(model: Path, directory: Path) -> Iterator[ModelServer]:
    """The model in a folder, served on a free port until the block ends. Its log is in `directory`."""
    port, log = free_port(), directory / "serve.log"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/health", process, log)
        # It names a folder as it does a repository, with a revision.
        yield ModelServer(f"http://127.0.0.1:{port}/v1", str(model), f"{model}@main")
    finally:
        process.terminate()
        process.wait(60)
