"""An API server for the command line: a real HTTP server on loopback that answers from a table of objects."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

Object = dict[str, Any]
Log = Callable[[dict[str, str]], Iterator[bytes]]
"""Pieces of a log for the query of a request; each is sent as soon as it is there."""


@dataclass
class PlayedApi:
    """What the server answers. It knows no more Kubernetes than selectors by labels."""

    port: int = 0
    answers: dict[str, Object | int] = field(default_factory=dict)
    """By path: a document, or the status of a refusal. Other paths get 404."""
    logs: dict[str, Log] = field(default_factory=dict)
    """By name of the Pod."""
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, path with query, and body of each request."""
    headers: dict[str, str] = field(default_factory=dict)
    """More headers of every answer."""
    before: Callable[[str], None] = lambda path: None
    """Called before each answer."""

    def kubeconfig(self, namespace: str | None = None) -> Object:
        """A kubeconfig that names this server."""
        context = {"cluster": "c", "user": "u"} | ({"namespace": namespace} if namespace else {})
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "x",
            "contexts": [{"name": "x", "context": context}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "u", "user": {}}],
        }


@contextmanager
def played_api(monkeypatch: pytest.MonkeyPatch, directory: Path, namespace: str | None = None) -> Iterator[PlayedApi]:
    """A server, which the kubeconfig of this process names."""
    api = PlayedApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or "null")
            api.asked.append((self.command, self.path, body))
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            api.before(parts.path)
            *_, last = segments = parts.path.split("/")
            if last == "log" and segments[-2] in api.logs:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in api.logs[segments[-2]](query):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")
                return
            found = api.answers.get(f"{self.command} {parts.path}", api.answers.get(parts.path, 404))
            code = found if isinstance(found, int) else 200
            document = {"kind": "Status", "code": found, "message": f"words for {found}"} if code != 200 else found
            if code == 200 and "labelSelector" in query:
                document = {**document, "items": [each for each in document["items"] if _selected(each, query)]}
            self.send(code, document)

        do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

        def send(self, code: int, document: Object) -> None:
            data = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in api.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        api.port = server.server_port
        path = directory / "kubeconfig"
        path.write_text(yaml.safe_dump(api.kubeconfig(namespace)))
        # The client reads KUBECONFIG when it is imported.
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
        yield api
        server.shutdown()
        thread.join()


def _selected(item: Object, query: dict[str, str]) -> bool:
    labels = item["metadata"].get("labels") or {}
    for each in query["labelSelector"].split(","):
        name, equals, value = each.partition("=")
        if name not in labels or (equals and labels[name] != value):
            return False
    return True
