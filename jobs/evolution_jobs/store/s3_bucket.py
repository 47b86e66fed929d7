"""One bucket of S3. A key is any name, taken literally: it is no path and no part of a URL."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody

from ..contract.errors import PermanentError, TransientError
from ..contract.locations import contains_bucket
from .base import CorruptObjectError, MissingObjectError, Watch, disk_error, unwatched
from .s3_client import endpoint_or_default, open_client
from .s3_errors import Asked, explain, no_s3, shown_endpoint
from .s3_parts import object_parts

DELETE_BATCH = 1000
"""Most keys in one DeleteObjects request."""
DELETES_AT_ONCE = 8
CONFLICT_TRIES = 5
BATCH_KNOWN = ("NoSuchBucket", "RequestTimeout", "RequestTimeTooSkewed", "SlowDown", "ExpiredToken")
"""Refusals of a batch delete with 400 or 404 that have nothing to do with the batch."""

UPLOAD = TransferConfig(
    multipart_threshold=16 << 20,
    multipart_chunksize=16 << 20,
    # At most this many parts are in memory at once: 64 MiB.
    max_concurrency=4,
    preferred_transfer_client="classic",
)


class Bucket:
    """One bucket at an endpoint. Every method raises StageError with one line for the user.

    Args:
        name: the bucket.
        endpoint: URL of the service; None takes that of the environment, else AWS.
        region: its region; None takes that of the credentials, else us-east-1.
        variables: prefix of the environment variables with its credentials.
        encryption: parameters that go with every write, under boto3's names.
    """

    def __init__(
        self,
        name: str,
        endpoint: str | None,
        region: str | None,
        variables: str = "",
        encryption: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.endpoint = endpoint_or_default(endpoint)
        self._encryption: dict[str, Any] = dict(encryption or {})
        self._batches = True
        """Whether the service deletes several objects with one request."""
        if self.endpoint and contains_bucket(self.endpoint, name):
            raise PermanentError(
                "StorageInvalid",
                f"storage.endpoint {shown_endpoint(self.endpoint)} contains the bucket {name}: write only the address of "
                "the service, for example https://host:port",
            )
        with self._explained("opening", ""):
            self.client = open_client(self.endpoint, region, variables)

    def put(self, key: str, data: bytes) -> None:
        """Store a small object."""
        with self._explained("writing", key):
            self.client.put_object(Bucket=self.name, Key=key, Body=data, **self._encryption)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store a small object if there is none. False if there is one."""
        for _ in range(CONFLICT_TRIES):
            with self._explained("writing", key, conditional=True):
                try:
                    self.client.put_object(Bucket=self.name, Key=key, Body=data, IfNoneMatch="*", **self._encryption)
                    return True
                except ClientError as error:
                    code = error.response["Error"]["Code"]
                    if code in ("PreconditionFailed", "412"):
                        return False
                    # Another write is under way; AWS asks to try again.
                    if code != "ConditionalRequestConflict":
                        raise
        raise TransientError("StorageConflict", f"{self._uri(key)}: other processes keep writing to it")

    def upload(self, local: Path, key: str) -> None:
        """Store a file, in parts if it is large."""
        with self._explained("writing", key), create_transfer_manager(self.client, UPLOAD) as transfers:
            transfers.upload(str(local), self.name, key, extra_args=self._encryption).result()

    def download(self, key: str, local: Path, sha256: str | None = None, watch: Watch = unwatched) -> None:
        """Copy an object to a file, which appears only once it is complete.

        Raises MissingObjectError, CorruptObjectError, `DiskFull`.
        """
        partial, digest = local.with_name(f".{local.name}.{secrets.token_hex(4)}"), hashlib.sha256()
        try:
            with self._explained("reading", key), partial.open("wb") as file:
                try:
                    for part in object_parts(self.client, self.name, key):
                        file.write(part)
                        digest.update(part)
                        watch(len(part))
                except ClientError as error:
                    if error.response["Error"]["Code"] == "PreconditionFailed":
                        raise TransientError(
                            "StorageConflict", f"{self._uri(key)} was replaced while it was read: read it again"
                        ) from error
                    _require_missing(error, "NoSuchKey", "404")
                    raise MissingObjectError(f"s3://{self.name}", key) from error
            if sha256 is not None and (found := digest.hexdigest()) != sha256:
                raise CorruptObjectError(f"s3://{self.name}", key, sha256, found)
            partial.rename(local)
        except OSError as error:
            raise disk_error(error, local) from error
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def opened(self, key: str) -> Iterator[tuple[StreamingBody, int] | None]:
        """An object as a stream, with its length; None if there is none."""
        with self._explained("reading", key):
            try:
                answer = self.client.get_object(Bucket=self.name, Key=key)
            except ClientError as error:
                # The bare 404 of a web server says nothing of an object.
                _require_missing(error, "NoSuchKey")
                yield None
                return
            with closing(answer["Body"]) as body:
                yield body, answer["ContentLength"]

    def start(self, key: str, count: int) -> bytes:
        """The first `count` bytes of an object that has at least that many; `count` is not 0."""
        with self._explained("reading", key):
            answer = self.client.get_object(Bucket=self.name, Key=key, Range=f"bytes=0-{count - 1}")
            with closing(answer["Body"]) as body:
                return body.read(count)

    def tag(self, key: str) -> str | None:
        """The ETag of an object, which changes with its content, or None if there is no object."""
        with self._explained("reading", key):
            try:
                return self.client.head_object(Bucket=self.name, Key=key)["ETag"]
            except ClientError as error:
                # The answer to a HEAD has no code.
                _require_missing(error, "NoSuchKey", "404")
                return None

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and size of each object whose key begins with the prefix."""
        with self._explained("listing", prefix):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                for item in page.get("Contents", []):
                    yield item["Key"], item["Size"]

    def delete(self, key: str) -> None:
        """Delete one object; it need not exist."""
        with self._explained("deleting", key):
            self.client.delete_object(Bucket=self.name, Key=key)

    def delete_all(self, keys: Sequence[str]) -> None:
        """Delete many objects: in batches, or one by one if the service refuses batches."""
        for start in range(0, len(keys), DELETE_BATCH):
            batch = keys[start : start + DELETE_BATCH]
            self._batches = self._batches and self._delete_batch(batch)
            if not self._batches:
                with ThreadPoolExecutor(DELETES_AT_ONCE) as pool:
                    list(pool.map(self.delete, batch))

    def _delete_batch(self, keys: Sequence[str]) -> bool:
        """False if the service refuses the batch for being one: Google Cloud Storage has none, others want more headers."""
        wanted: Any = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        with self._explained("deleting", keys[0]):
            try:
                answer = self.client.delete_objects(Bucket=self.name, Delete=wanted)
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                if status in (400, 404, 405, 411, 501) and error.response["Error"]["Code"] not in BATCH_KNOWN:
                    return False
                raise
            for fault in answer.get("Errors", []):
                raise ClientError({"Error": {"Code": fault.get("Code", "unknown")}}, "DeleteObjects")
        return True

    def _uri(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    @contextmanager
    def _explained(self, action: str, key: str, conditional: bool = False) -> Iterator[None]:
        """Turn errors of botocore into one line for the user."""
        encrypted = bool(self._encryption)
        asked = Asked(action, self._uri(key).rstrip("/"), self.name, self.endpoint, conditional, encrypted)
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            found = explain(error, asked)
            if found.reason == "StorageDenied" and action == "writing" and self._is_readable():
                found = PermanentError(found.reason, f"{found}. Reading is allowed, only writing is not")
            raise found from error
        except (KeyError, RecursionError) as error:
            # An answer without length or ETag; or a redirect, for example to https, which botocore follows endlessly.
            raise no_s3(asked) from error

    def _is_readable(self) -> bool:
        try:
            self.client.list_objects_v2(Bucket=self.name, MaxKeys=1)
        except (BotoCoreError, ClientError):
            return False
        return True


def _require_missing(error: ClientError, *codes: str) -> None:
    """Raise the error unless one of these codes says that there is no object."""
    if error.response["Error"]["Code"] not in codes:
        raise error
