"""Makes the S3 clients of this process meet a service or a bucket policy that refuses some requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from evolution_jobs.store import s3_bucket

Refusal = tuple[int, str, Mapping[str, str]]
"""HTTP status, body and headers of an answer."""


def refusing(
    monkeypatch: pytest.MonkeyPatch, refuse: Callable[[str, Mapping[str, str]], Refusal | None]
) -> list[tuple[str, Mapping[str, str]]]:
    """Every client opened from now on asks `refuse` (operation, request headers) before it sends a request.

    Returns the list that takes each operation and its headers.
    """
    sent: list[tuple[str, Mapping[str, str]]] = []
    opened = s3_bucket.open_client

    def open_client(*arguments: Any, **named: Any) -> Any:
        client = opened(*arguments, **named)

        def before_send(request: Any, event_name: str, **_: Any) -> AWSResponse | None:
            operation = event_name.rpartition(".")[2]
            headers = {name.lower(): plain(value) for name, value in request.headers.items()}
            sent.append((operation, headers))
            refused = refuse(operation, headers)
            if refused is None:
                return None
            status, body, answer = refused
            return AWSResponse(request.url, status, answer, Raw(body.encode()))

        client.meta.events.register("before-send.s3", before_send)
        return client

    monkeypatch.setattr(s3_bucket, "open_client", open_client)
    return sent


def fault(status: int, code: str) -> Refusal:
    """A refusal as S3 words it."""
    return status, f"<Error><Code>{code}</Code><Message>the server's words</Message></Error>", {}


def plain(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


class Raw(BytesIO):
    """The body of an answer, as urllib3 gives it."""

    def stream(self, *_: Any, **__: Any) -> Any:
        yield self.read()
