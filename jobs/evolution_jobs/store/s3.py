"""A prefix of a bucket as a store: S3 and compatible services (MinIO, Ceph, R2, Google Cloud Storage), with boto3."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ..contract.errors import PermanentError
from .base import CHUNK, DOCUMENT_LIMIT, Store, Watch, check_location, check_prefix, unwatched
from .s3_bucket import Bucket


class S3Store(Store):
    """Objects below a prefix of one bucket. Large files are uploaded in parallel parts and appear once all are complete."""

    def __init__(self, bucket: Bucket, prefix: str = "") -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket.name}/{prefix}".rstrip("/")

    def put_file(self, local: Path, location: str) -> None:
        self.bucket.upload(local, self._key(location))

    def put_bytes(self, data: bytes, location: str) -> None:
        self.bucket.put(self._key(location), data)

    def put_if_absent(self, data: bytes, location: str) -> bool:
        if self.bucket.put_if_absent(self._key(location), data):
            return True
        # If the answer to a put is lost, boto3 repeats the put, and the first one makes the second one fail.
        return self.read(location) == data

    def read(self, location: str, limit: int = DOCUMENT_LIMIT) -> bytes | None:
        with self.bucket.opened(self._key(location)) as found:
            if found is None:
                return None
            body, length = found
            if length > limit:
                raise PermanentError("DocumentTooLarge", f"{self.uri}/{location} is larger than {limit} bytes")
            return body.read()

    def get_file(self, location: str, local: Path, sha256: str | None = None, watch: Watch = unwatched) -> None:
        self.bucket.download(self._key(location), local, sha256, watch)

    def sha256(self, location: str, watch: Watch = unwatched) -> str | None:
        digest = hashlib.sha256()
        with self.bucket.opened(self._key(location)) as found:
            if found is None:
                return None
            for chunk in found[0].iter_chunks(CHUNK):
                digest.update(chunk)
                watch(len(chunk))
        return digest.hexdigest()

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for key, size in self.bucket.list(self.prefix + check_prefix(prefix)):
            yield key.removeprefix(self.prefix), size

    def delete(self, location: str) -> None:
        if location.endswith("/"):
            self.bucket.delete_all([self.prefix + found for found, _ in self.list(location)])
        else:
            self.bucket.delete(self._key(location))

    def local(self, location: str) -> Path | None:
        check_location(location)
        return None

    def _key(self, location: str) -> str:
        return self.prefix + check_location(location)
