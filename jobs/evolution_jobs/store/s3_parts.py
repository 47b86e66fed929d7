"""An object of S3 as a stream of parts. Several are on their way while the caller works on the one before.

s3transfer, which boto3 downloads with, writes parts in any order, so a digest needs to read the file once more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART = 8 << 20
"""Bytes."""
AT_ONCE = 4
"""Parts on their way. With the one that the caller has, 40 MiB are in memory."""
TRIES = 5
BROKEN_OFF = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError)
"""An answer has begun and not ended. botocore repeats only requests without any answer."""


@dataclass(frozen=True)
class _Part:
    content: bytes
    size: int
    """Of the whole object."""
    tag: str


def object_parts(client: S3Client, bucket: str, key: str) -> Iterator[bytes]:
    """The content of an object in its order, all of one version of it.

    Raises botocore's errors: `PreconditionFailed` if the object is replaced meanwhile; KeyError if the service does not
    know ranges, as any S3 service does.
    """
    try:
        first = _fetched(client, bucket, key, 0)
    except ClientError as error:
        # An empty object has no bytes to ask for.
        if error.response["Error"]["Code"] == "InvalidRange":
            return
        raise
    starts = iter(range(PART, first.size, PART))
    yield first.content
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = deque(
            pool.submit(_fetched, client, bucket, key, start, first.tag) for start in islice(starts, AT_ONCE)
        )
        while waiting:
            part = waiting.popleft().result()
            waiting.extend(pool.submit(_fetched, client, bucket, key, start, first.tag) for start in islice(starts, 1))
            yield part.content


def _fetched(client: S3Client, bucket: str, key: str, start: int, tag: str | None = None) -> _Part:
    """The part that begins at `start`. An answer that breaks off is asked for again."""
    wanted: Any = {"Range": f"bytes={start}-{start + PART - 1}"} | ({} if tag is None else {"IfMatch": tag})
    tries = TRIES
    while True:
        answer = client.get_object(Bucket=bucket, Key=key, **wanted)
        length = answer["ContentLength"]
        # Without a range it is the whole object.
        span = answer.get("ContentRange", f"bytes 0-{length - 1}/{length}")
        tries -= 1
        try:
            with closing(answer["Body"]) as body:
                if length > PART or not span.startswith(f"bytes {start}-"):
                    raise KeyError("ContentRange")
                return _Part(body.read(), int(span.rpartition("/")[2]), answer["ETag"])
        except BROKEN_OFF:
            if not tries:
                raise
