"""HTTP for the live page: a request handler that any server may use, and the server of a run on this machine."""

from __future__ import annotations

import logging
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .pages import Answer, Asked, Pages

log = logging.getLogger(__name__)

CLIENT_SECONDS = 10.0
"""A connection that sends nothing for this long is closed."""
WATCHED_SECONDS = 5.0
"""A page that has asked within this time is open in front of someone."""
FAREWELL_SECONDS = 4.0
"""How long the end of a run waits, at most, for such a page to ask once more."""
UNTIL_END = "?until=end"
"""Ending of an address that is answered when the run ends: a page in the background asks for nothing else."""


class PageHandler(BaseHTTPRequestHandler):
    """Answers with what `answer` says, which a subclass defines."""

    timeout = CLIENT_SECONDS

    def answer(self, asked: Asked) -> Answer:
        """The answer to a request."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Answer a request of any method."""
        headers = self.headers
        asked = Asked(
            self.command,
            self.path,
            str(self.client_address[0]),
            headers.get("Host") or "",
            headers.get("If-None-Match") or "",
        )
        self.send_answer(self.answer(asked))

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET  # noqa: N815  # names of http.server

    def send_answer(self, answer: Answer) -> None:
        """Write an answer, without its body if only the head was asked for."""
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def version_string(self) -> str:
        """What the Server header says: no version."""
        return "evolution"

    def log_message(self, *_: Any) -> None:
        """Log nothing: a page asks every two seconds."""


class QuietServer(ThreadingHTTPServer):
    """A server that a client's broken connection does not disturb."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error of ours. A client that has gone is none."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("a request of %s failed", client_address, exc_info=error)


class LocalServer:
    """Serves pages to this machine alone, until `stop`.

    Args:
        pages: what to serve.
        port: 0 takes a free one.
        farewell: seconds that `stop` waits, at most, until an open page has the last state.

    Raises OSError or OverflowError if the port cannot be taken.
    """

    def __init__(self, pages: Pages, port: int = 0, farewell: float = FAREWELL_SECONDS) -> None:
        outer = self
        self._farewell = farewell

        class Handler(PageHandler):
            def answer(self, asked: Asked) -> Answer:
                outer._asked_at = time.monotonic()
                found = pages.answer(asked)
                if not asked.target.endswith(UNTIL_END) or found.status != HTTPStatus.OK:
                    return found
                outer._held = True
                outer._ended.wait()
                return pages.answer(asked)

            def send_answer(self, answer: Answer) -> None:
                super().send_answer(answer)
                if answer.last:
                    outer._last_given.set()

        self._pages = pages
        self._asked_at = float("-inf")
        self._held = False
        self._ended, self._last_given = threading.Event(), threading.Event()
        self._server = QuietServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="live page", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def stop(self) -> None:
        """Let an open page get the last state, and serve no more. Call it once the source has ended."""
        self._pages.forget()
        self._ended.set()
        if self._held or time.monotonic() - self._asked_at < WATCHED_SECONDS:
            self._last_given.wait(self._farewell)
        self._server.shutdown()
        self._server.server_close()
