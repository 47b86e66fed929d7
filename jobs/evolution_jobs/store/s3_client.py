"""boto3 clients for S3 and compatible services (MinIO, Ceph, R2, Google Cloud Storage)."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import TYPE_CHECKING, Any

import boto3
from botocore.awsrequest import AWSRequest
from botocore.config import Config

from ..contract.credentials import BLANK, credential
from ..contract.errors import PermanentError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


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


def endpoint_or_default(endpoint: str | None) -> str | None:
    """The endpoint, else that of the environment; None is AWS."""
    given = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return given.strip(BLANK) or None


def open_client(endpoint: str | None, region: str | None, prefix: str = "") -> S3Client:
    """A client for an endpoint. `prefix` is that of the variables with its credentials; without any, boto3 looks itself.

    Raises PermanentError `CredentialsInvalid`, `StorageInvalid`, and botocore's errors.
    """
    session = boto3.Session(
        aws_access_key_id=credential(f"{prefix}AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=credential(f"{prefix}AWS_SECRET_ACCESS_KEY"),
        aws_session_token=credential(f"{prefix}AWS_SESSION_TOKEN"),
    )
    found = (region or session.region_name or "us-east-1").strip(BLANK)
    try:
        client = session.client("s3", endpoint_url=endpoint, region_name=found, config=client_config(endpoint))
    except ValueError as error:
        # The message does not repeat the value, which may contain a password.
        raise PermanentError("StorageInvalid", "storage.endpoint is not a valid URL: write http://host:port") from error
    client.meta.events.register("before-sign.s3.DeleteObjects", _add_content_md5)
    return client


def _add_content_md5(request: AWSRequest, **_: Any) -> None:
    """Add the only checksum that older services know; botocore sends another. Without it they delete nothing."""
    body = request.body.encode() if isinstance(request.body, str) else request.body
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()
