"""S3 and compatible services (MinIO, Ceph, R2), with boto3. Credentials come only from boto3's own chain."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import RetriesExceededError

from ..contract.errors import PermanentError, TransientError
from .base import (
    DOCUMENT_LIMIT,
    CorruptObjectError,
    MissingObjectError,
    Store,
    check_location,
    check_prefix,
    disk_error,
    file_sha256,
)
from .s3_errors import explain, no_s3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

STREAM_CHUNK = 1 << 20
DELETE_BATCH = 1000
"""Most keys in one DeleteObjects request."""
CONFLICT_TRIES = 5

TRANSFER = TransferConfig(
    multipart_threshold=16 << 20,
    multipart_chunksize=16 << 20,
    # At most this many parts are in memory at once: 64 MiB.
    max_concurrency=4,
    preferred_transfer_client="classic",
)


def client_config(endpoint: str | None) -> Config:
    """Timeouts: a refused connection fails within seconds, an endpoint that does not answer in about a minute."""
    return Config(
        connect_timeout=5,
        read_timeout=15,
        retries={"mode": "standard", "total_max_attempts": 4},
        # A private endpoint rarely has a DNS name for each bucket.
        s3={"addressing_style": "path" if endpoint else "auto"},
        # Older versions of MinIO, Ceph and others refuse boto3's newer trailing CRC. Without it each request's signature
        # covers the SHA-256 of its body, so transfer errors are still detected.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=16,
    )


class S3Store(Store):
    """Objects below a prefix of one bucket. Large files are uploaded in parallel parts and appear once all are complete."""

    def __init__(self, bucket: str, prefix: str = "", endpoint: str | None = None, region: str | None = None) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        own = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        self.endpoint = own
        with self._explained("opening"):
            session = boto3.Session()
            try:
                self.client: S3Client = session.client(
                    "s3",
                    endpoint_url=own,
                    region_name=region or session.region_name or "us-east-1",
                    config=client_config(own),
                )
            except ValueError as error:
                # The message does not repeat the value, which may contain a password.
                raise PermanentError(
                    "StorageInvalid", "storage.endpoint is not a valid URL: write http://host:port"
                ) from error

    def put_file(self, local: Path, location: str) -> None:
        key = self._key(location)
        with self._explained("writing", location), create_transfer_manager(self.client, TRANSFER) as transfers:
            transfers.upload(str(local), self.bucket, key).result()

    def put_bytes(self, data: bytes, location: str) -> None:
        with self._explained("writing", location):
            self.client.put_object(Bucket=self.bucket, Key=self._key(location), Body=data)

    def put_if_absent(self, data: bytes, location: str) -> bool:
        key = self._key(location)
        for _ in range(CONFLICT_TRIES):
            with self._explained("writing", location):
                try:
                    self.client.put_object(Bucket=self.bucket, Key=key, Body=data, IfNoneMatch="*")
                    return True
                except ClientError as error:
                    code = error.response["Error"]["Code"]
                    # Another write is under way; AWS asks to try again.
                    if code == "ConditionalRequestConflict":
                        continue
                    if code not in ("PreconditionFailed", "412"):
                        raise
            # If the answer to a put is lost, boto3 repeats the put, and the first one makes the second one fail.
            current = self.read(location)
            return current == data
        raise TransientError("StorageConflict", f"{self.uri}/{location}: other processes keep writing to it")

    def read(self, location: str, limit: int = DOCUMENT_LIMIT) -> bytes | None:
        with self._explained("reading", location):
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=self._key(location))
            except self.client.exceptions.NoSuchKey:
                return None
            with closing(answer["Body"]) as body:
                if answer["ContentLength"] > limit:
                    raise PermanentError("DocumentTooLarge", f"{self.uri}/{location} is larger than {limit} bytes")
                return body.read()

    def start(self, location: str, count: int) -> bytes:
        """The first `count` bytes of an object that has at least that many; `count` is not 0."""
        with self._explained("reading", location):
            answer = self.client.get_object(Bucket=self.bucket, Key=self._key(location), Range=f"bytes=0-{count - 1}")
            with closing(answer["Body"]) as body:
                return body.read(count)

    def get_file(self, location: str, local: Path, sha256: str | None = None) -> None:
        key = self._key(location)
        partial = local.with_name(f".{local.name}.{secrets.token_hex(4)}")
        try:
            with self._explained("reading", location), create_transfer_manager(self.client, TRANSFER) as transfers:
                try:
                    transfers.download(self.bucket, key, str(partial)).result()
                except ClientError as error:
                    if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                        raise MissingObjectError(self.uri, location) from error
                    raise
            if sha256 is not None and (found := file_sha256(partial)) != sha256:
                raise CorruptObjectError(self.uri, location, sha256, found)
            partial.rename(local)
        except OSError as error:
            raise disk_error(error, local) from error
        finally:
            partial.unlink(missing_ok=True)

    def sha256(self, location: str) -> str | None:
        digest = hashlib.sha256()
        with self._explained("reading", location):
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=self._key(location))
            except self.client.exceptions.NoSuchKey:
                return None
            with closing(answer["Body"]) as body:
                for chunk in body.iter_chunks(STREAM_CHUNK):
                    digest.update(chunk)
        return digest.hexdigest()

    def tag(self, location: str) -> str | None:
        """The ETag of an object, which changes with its content, or None if there is no object."""
        with self._explained("reading", location):
            try:
                return self.client.head_object(Bucket=self.bucket, Key=self._key(location))["ETag"]
            except ClientError as error:
                if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                    return None
                raise

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self._explained("listing", prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + check_prefix(prefix)
            )
            for page in pages:
                for item in page.get("Contents", []):
                    yield item["Key"].removeprefix(self.prefix), item["Size"]

    def delete(self, location: str) -> None:
        if not location.endswith("/"):
            with self._explained("deleting", location):
                self.client.delete_object(Bucket=self.bucket, Key=self._key(location))
            return
        keys = [self.prefix + found for found, _ in self.list(location)]
        for start in range(0, len(keys), DELETE_BATCH):
            with self._explained("deleting", location):
                batch = [{"Key": key} for key in keys[start : start + DELETE_BATCH]]
                answer = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True})  # type: ignore[typeddict-item]
                for error in answer.get("Errors", []):
                    raise ClientError({"Error": {"Code": error.get("Code", "unknown")}}, "DeleteObjects")

    def local(self, location: str) -> Path | None:
        check_location(location)
        return None

    def _key(self, location: str) -> str:
        return self.prefix + check_location(location)

    @contextmanager
    def _explained(self, action: str, location: str = "") -> Iterator[None]:
        """Turn errors of botocore into one line for the user."""
        what = f"{action} {self.uri}/{location}".rstrip("/")
        try:
            yield
        except (BotoCoreError, ClientError, RetriesExceededError) as error:
            cause: BaseException = error.last_exception if isinstance(error, RetriesExceededError) else error
            raise explain(cause, what, self.bucket, self.endpoint) from error
        except (KeyError, RecursionError) as error:
            # An answer without length or ETag; or a redirect, for example to https, which botocore follows endlessly.
            raise no_s3(what, self.bucket, self.endpoint) from error
