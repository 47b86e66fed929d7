"""/healthz answers on the addresses of both IP versions, and on IPv4 alone where the kernel has no IPv6."""

from __future__ import annotations

import contextlib
import errno
import http.client
import socket
from collections.abc import Iterator

import pytest
from evolution_operator.controller.process.health import HealthServer
from prometheus_client import CollectorRegistry

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


@contextlib.contextmanager
def serving(fault: str | None = None) -> Iterator[HealthServer]:
    server = HealthServer(0, lambda: fault, CollectorRegistry())
    server.start()
    try:
        yield server
    finally:
        server.stop()


def get(address: str, port: int, path: str = "/healthz") -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize("address", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_it_answers_on_both_families(address: str) -> None:
    with serving() as server:
        assert get(address, server.port) == (200, "ok\n")
        assert get(address, server.port, "/metrics")[0] == 200
        assert get(address, server.port, "/nothing")[0] == 404


def test_it_says_what_is_stuck() -> None:
    with serving("the event loop has not moved for 120 s") as server:
        assert get("127.0.0.1", server.port) == (503, "the event loop has not moved for 120 s\n")


def test_without_ipv6_in_the_kernel_it_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with serving() as server:
        assert get("127.0.0.1", server.port) == (200, "ok\n")


@needs_ipv6
def test_where_ipv6_is_switched_off_it_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = socket.socket.bind

    def refuse_ipv6(self: socket.socket, address: tuple[str, int]) -> None:
        if self.family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        bind(self, address)

    monkeypatch.setattr("socketserver.socket.socket.bind", refuse_ipv6)
    with serving() as server:
        assert get("127.0.0.1", server.port) == (200, "ok\n")
