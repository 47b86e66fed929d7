"""/healthz, /metrics and the live page. Threads of their own serve them, so they answer even if the rest of the process is stuck."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ...live.pages import TEXT, Answer, Asked
from ...live.server import PageHandler, QuietServer

Check = Callable[[], str | None]
"""What is wrong, None if nothing is."""

_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class _AllAddresses(QuietServer):
    """Listens on one socket for IPv4 and IPv6, and for IPv4 alone where the kernel has no IPv6.

    The kubelet and Prometheus use the Pod's first address, which is an IPv6 one on some clusters.
    """

    def __init__(self, port: int, handler: type[PageHandler]) -> None:
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
        page: answers every other request; None if there is no page.
    """

    def __init__(
        self,
        port: int,
        stuck: Check,
        registry: CollectorRegistry,
        page: Callable[[Asked], Answer] | None = None,
    ) -> None:
        class Handler(PageHandler):
            def answer(self, asked: Asked) -> Answer:
                path, reads = asked.target.partition("?")[0], asked.method in ("GET", "HEAD")
                if path == "/metrics" and reads:
                    return Answer(HTTPStatus.OK, generate_latest(registry), {"Content-Type": CONTENT_TYPE_LATEST})
                if path == "/healthz" and reads:
                    fault = stuck()
                    status = HTTPStatus.OK if fault is None else HTTPStatus.SERVICE_UNAVAILABLE
                    return Answer(status, f"{fault or 'ok'}\n".encode(), {"Content-Type": TEXT})
                if page is not None:
                    return page(asked)
                return Answer(HTTPStatus.NOT_FOUND, b"/healthz or /metrics\n", {"Content-Type": TEXT})

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
