"""/healthz and /metrics. A separate thread serves them, so they answer even if the rest of the process is stuck."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

Check = Callable[[], str | None]
"""What is wrong, None if nothing is."""

TEXT = "text/plain; charset=utf-8"

_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class _AllAddresses(ThreadingHTTPServer):
    """Listens on one socket for IPv4 and IPv6, and for IPv4 alone where the kernel has no IPv6.

    The kubelet and Prometheus use the Pod's first address, which is an IPv6 one on some clusters.
    """

    daemon_threads = True

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        try:
            super().__init__(("", port), handler)
        except OSError as error:
            # IPv6 may be compiled in and still have no address (sysctl net.ipv6.conf.all.disable_ipv6).
            if self.address_family == socket.AF_INET or error.errno not in _NO_IPV6:
                raise
            self.address_family = socket.AF_INET
            super().__init__(("", port), handler)

    def server_bind(self) -> None:
        """Bind the socket. Its IPv6 form takes IPv4 connections as well, whatever the kernel's default is."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class HealthServer:
    """Serves on all addresses, of both IP versions, until `stop`.

    Args:
        port: 0 takes a free one.
        stuck: asked for /healthz, which fails with its answer; the kubelet then restarts the container.
        registry: served under /metrics.
    """

    def __init__(self, port: int, stuck: Check, registry: CollectorRegistry) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                """Answer a probe or a scrape."""
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry))
                elif path == "/healthz":
                    fault = stuck()
                    status = HTTPStatus.OK if fault is None else HTTPStatus.SERVICE_UNAVAILABLE
                    self._answer(status, TEXT, f"{fault or 'ok'}\n".encode())
                else:
                    self._answer(HTTPStatus.NOT_FOUND, TEXT, b"/healthz or /metrics\n")

            def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Log nothing: the kubelet asks every few seconds."""

        self._server = _AllAddresses(port, Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
