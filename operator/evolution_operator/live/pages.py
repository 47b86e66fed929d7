"""Answers requests for the live page: a page, its two files, and JSON that the page asks for again and again.

Nothing can be changed: only GET and HEAD are answered. The JSON of a run is the same for everyone who asks, so it is
built once a second at most, and whoever has it already gets 304 without a body.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from ..look import look_css

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
TEXT, JSON = "text/plain; charset=utf-8", "application/json"
RUNS_SHOWN = 1000
"""Runs that a list has at most."""
KEPT_SECONDS = 1.0
"""How long an answer is given again before it is built anew."""
ANSWERS_KEPT = 64
RUN_PATH = re.compile(r"/runs/(?P<namespace>[a-z0-9][-a-z0-9]{0,62})/(?P<name>[a-z0-9][-a-z0-9.]{0,252})\.json")
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

Access = Literal["portForward", "network", "off"]
"""Who gets the operator's page: whoever forwards its port; everyone who reaches its port; nobody."""


class Source(Protocol):
    """Where the runs come from."""

    single: bool
    """Whether there is only ever one run: its page then needs no list."""

    def runs(self) -> list[dict[str, Any]]:
        """The list of runs (`view.run_summary`): unfinished ones first, then the newest."""
        ...

    def run(self, namespace: str, name: str) -> dict[str, Any] | None:
        """One run (`view.run_document`); None if there is no such run."""
        ...


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    target: str
    peer: str
    """Address of the other end of the connection."""
    host: str
    """The Host header."""
    known: str = ""
    """The If-None-Match header."""


@dataclass(frozen=True)
class Answer:
    """A response. A HEAD request has the same headers and no body."""

    status: HTTPStatus
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    last: bool = False
    """True if the body is the run's last one (`ended`)."""


class Pages:
    """Answers for one source. Thread-safe.

    Args:
        source: where the runs come from.
        access: `portForward` answers only peers of this Pod or machine that asked for a local name, so that neither
            another Pod nor a web page whose name was bound to this address (DNS rebinding) reads anything.
        clock: monotonic seconds.
    """

    def __init__(
        self, source: Source, access: Access = "portForward", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._access = access
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, Answer]] = OrderedDict()
        self._forgotten = 0
        """How often `forget` was called."""
        own = files(__package__)
        self._files = {
            "/": ("text/html; charset=utf-8", own.joinpath("page.html").read_bytes()),
            "/live.css": ("text/css; charset=utf-8", look_css().encode() + own.joinpath("live.css").read_bytes()),
            "/live.js": ("text/javascript; charset=utf-8", own.joinpath("live.js").read_bytes()),
        }

    def answer(self, asked: Asked) -> Answer:
        """The answer to a request. Never raises for what a client sends."""
        if self._access == "off":
            return _words(HTTPStatus.NOT_FOUND, "there is no page here")
        if self._access == "portForward" and not (_is_local(asked.peer) and _host_of(asked.host) in LOCAL_HOSTS):
            return _words(HTTPStatus.FORBIDDEN, "this page is for a forwarded port only: run `evolution dashboard`")
        if asked.method not in ("GET", "HEAD"):
            return _words(HTTPStatus.METHOD_NOT_ALLOWED, "this page is read-only", Allow="GET, HEAD")
        path = asked.target.partition("?")[0]
        if path == "/favicon.ico":
            return Answer(HTTPStatus.NO_CONTENT, headers=HEADERS)
        if path in self._files:
            return _unless_known(_answer(*self._files[path]), asked.known)
        if path == "/runs.json":
            return _unless_known(self._built(path, self._list), asked.known)
        if (found := RUN_PATH.fullmatch(path)) is not None:
            built = self._built(path, lambda: self._source.run(found["namespace"], found["name"]))
            return _unless_known(built, asked.known)
        return _words(HTTPStatus.NOT_FOUND, "there is no such page")

    def _list(self) -> dict[str, Any]:
        runs = self._source.runs()
        left = max(0, len(runs) - RUNS_SHOWN)
        return {"runs": runs[:RUNS_SHOWN], "left": left, "single": self._source.single}

    def _built(self, path: str, build: Callable[[], dict[str, Any] | None]) -> Answer:
        now = self._clock()
        with self._lock:
            kept, forgotten = self._kept.get(path), self._forgotten
        if kept is not None and now - kept[0] < KEPT_SECONDS:
            return kept[1]
        document = build()
        if document is None:
            return _words(HTTPStatus.NOT_FOUND, "there is no such run")
        # Escapes keep lone surrogates, which UTF-8 cannot hold.
        body = json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode()
        answer = _answer(JSON, body, last=bool(document.get("ended")))
        with self._lock:
            # What was read before `forget` is out of date.
            if self._forgotten == forgotten:
                self._kept[path] = (now, answer)
                self._kept.move_to_end(path)
                while len(self._kept) > ANSWERS_KEPT:
                    self._kept.popitem(last=False)
        return answer

    def forget(self) -> None:
        """Build the next answers anew."""
        with self._lock:
            self._kept.clear()
            self._forgotten += 1


def _answer(kind: str, body: bytes, last: bool = False) -> Answer:
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return Answer(HTTPStatus.OK, body, {**HEADERS, "Content-Type": kind, "ETag": tag}, last)


def _unless_known(answer: Answer, known: str) -> Answer:
    tag = answer.headers.get("ETag")
    if tag is None or tag not in (each.strip().removeprefix("W/") for each in known.split(",")):
        return answer
    return Answer(HTTPStatus.NOT_MODIFIED, headers={**HEADERS, "ETag": tag}, last=answer.last)


def _words(status: HTTPStatus, text: str, **headers: str) -> Answer:
    return Answer(status, f"{text}\n".encode(), {**HEADERS, "Content-Type": TEXT, **headers})


def _is_local(peer: str) -> bool:
    """Whether the peer is this host. A service mesh's proxy has other addresses of 127.0.0.0/8, so those do not count."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return str(mapped) in ("127.0.0.1", "::1")


def _host_of(host: str) -> str | None:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
