"""Explains botocore's errors to the user: one line with bucket, endpoint and remedy, never a credential."""

from __future__ import annotations

from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.exceptions import ClientError

from ..contract.errors import PermanentError, StageError, TransientError

CREDENTIAL_CODES = frozenset(
    {
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "Forbidden",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "403",
    }
)
FULL_CODES = frozenset(
    {
        "InsufficientStorage",
        "QuotaExceeded",
        "XMinioAdminBucketQuotaExceeded",
        "XMinioDiskFull",
        "XMinioStorageFull",
        "507",
    }
)
BUSY_CODES = frozenset({"InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown"})
NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.ProfileNotFound,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.UnauthorizedSSOTokenError,
)
NO_CONNECTION = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.ReadTimeoutError,
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
)


def explain(error: BaseException, action: str, bucket: str, endpoint: str | None) -> StageError:
    """The error to raise for `error`, which botocore raised while `action` (for example `reading s3://bucket/key`)."""
    where = shown_endpoint(endpoint)
    if isinstance(error, ClientError):
        return _refusal(error, action, bucket, where)
    if isinstance(error, NO_CREDENTIALS):
        return PermanentError(
            "CredentialsMissing",
            f"{action}: no usable credentials for bucket {bucket} at {where} ({type(error).__name__}): "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or storage.credentialsSecret in a cluster",
        )
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return PermanentError(
            "StorageUntrusted",
            f"{action}: the certificate of {where} is not trusted: set AWS_CA_BUNDLE to a file with its CA certificate",
        )
    if isinstance(error, NO_CONNECTION):
        return TransientError(
            "StorageUnreachable",
            f"{action}: cannot reach bucket {bucket} at {where} ({_how(error)}): "
            "check storage.endpoint, and that the service is up and may be reached from here",
        )
    return PermanentError(
        "StorageInvalid",
        f"{action}: bucket {bucket} at {where} cannot be used ({type(error).__name__}): "
        "check storage.uri, storage.endpoint and storage.region, and that an S3 service answers there",
    )


def no_s3(action: str, bucket: str, endpoint: str | None) -> StageError:
    """The error to raise if an answer does not come from an S3 service."""
    return PermanentError(
        "StorageInvalid",
        f"{action}: the service at {shown_endpoint(endpoint)} (bucket {bucket}) redirects or is not an S3 service: "
        "check storage.endpoint, its port, and whether it must begin with https://",
    )


def shown_endpoint(endpoint: str | None) -> str:
    """The endpoint for messages, without user and password."""
    if endpoint is None:
        return "AWS S3"
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _refusal(error: ClientError, action: str, bucket: str, where: str) -> StageError:
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return PermanentError(
            "BucketMissing", f"{action}: bucket {bucket} does not exist at {where}: create it, or correct storage.uri"
        )
    # MinIO has a code for a disk that is nearly full, and an internal error if the disk fills up during an upload.
    words = str(error.response.get("Error", {}).get("Message", ""))
    if code in FULL_CODES or status == 507 or "no space left on device" in words:
        return TransientError(
            "StorageFull", f"{action}: bucket {bucket} at {where} is full ({code}): free space or raise its quota"
        )
    if code == "RequestTimeTooSkewed":
        return TransientError(
            "ClockWrong",
            f"{action}: this machine's clock differs too much from the clock of {where}, so signatures are refused: "
            "set the clock of this node (NTP)",
        )
    if code in CREDENTIAL_CODES or status in (401, 403):
        return PermanentError(
            "StorageDenied",
            f"{action}: {where} refuses these credentials for bucket {bucket} ({code}): check AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or the Pod's identity; they need s3:ListBucket, s3:GetObject, s3:PutObject, "
            "s3:DeleteObject and s3:AbortMultipartUpload",
        )
    if code in ("PermanentRedirect", "IllegalLocationConstraintException"):
        return PermanentError(
            "StorageInvalid", f"{action}: bucket {bucket} is in another region ({code}): set storage.region"
        )
    if code == "NotImplemented":
        return PermanentError(
            "StorageInvalid",
            f"{action}: {where} lacks conditional writes (If-None-Match), which keep two attempts from "
            "publishing the same result: use AWS S3, a current MinIO, or another store that has them",
        )
    if status >= 500 or status == 429 or code in BUSY_CODES:
        return TransientError(
            "StorageUnreachable", f"{action}: {where} fails for bucket {bucket} ({code}, HTTP {status})"
        )
    return PermanentError(
        "StorageInvalid",
        f"{action}: {where} refuses the request for bucket {bucket} ({code}, HTTP {status}): "
        "check storage.uri and storage.endpoint, and that an S3 service answers there",
    )


def _how(error: BaseException) -> str:
    """How the connection failed. The text never contains a URL, which may have a password."""
    text = str(error)
    if "Connection refused" in text or isinstance(error, boto.EndpointConnectionError):
        return "connection refused or no such host"
    if isinstance(error, (boto.ConnectTimeoutError, boto.ReadTimeoutError)):
        return "no answer in time"
    return type(error).__name__
