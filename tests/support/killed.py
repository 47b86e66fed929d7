"""A stage that asks a server, in a process that is killed while its requests are open."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.chat_server import ChatServer, Reply, serving

ANSWERED = 8
"""Requests that are answered before."""
OPEN = 4
"""Requests that are open when the process is killed: its `concurrency`."""


@contextmanager
def killed_while_asking(module: str, root: Path, answer: Reply) -> Iterator[ChatServer]:
    """The server, once `python -m MODULE ROOT URL` was killed. From then on it answers everything."""
    reached, released = threading.Event(), threading.Event()

    def reply(body: dict[str, Any]) -> Any:
        if len(server.asked) >= ANSWERED and not released.is_set():
            if server.open == OPEN:
                reached.set()
            released.wait(60)
        return answer(body)

    with serving(reply) as server:
        child = subprocess.Popen([sys.executable, "-m", module, str(root), server.url])
        try:
            assert reached.wait(60)
        finally:
            child.kill()
            child.wait()
            released.set()
        yield server
