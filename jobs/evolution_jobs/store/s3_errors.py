"""Explains botocore's errors to the user: one line with bucket, endpoint, cause and remedy, never a credential."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.exceptions import ClientError

from ..contract.errors import PermanentError, StageError, TransientError
from .connection import is_page, page_words, proxy_of
from .s3_network import NO_CONNECTION, unreachable

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
EXPIRED = (
    "these temporary credentials have expired or are not valid: renew AWS_SESSION_TOKEN and the keys that belong to it"
)
DENIALS = {
    "InvalidAccessKeyId": "the service does not know this access key: correct AWS_ACCESS_KEY_ID, or create the key again",
    "SignatureDoesNotMatch": (
        "the signature is wrong: correct AWS_SECRET_ACCESS_KEY, which does not belong to this AWS_ACCESS_KEY_ID; if it "
        "does, a proxy changes the request or its Host header on the way"
    ),
    "AuthorizationHeaderMalformed": "the request cannot be verified: check AWS_ACCESS_KEY_ID, and set storage.region",
    "AccountProblem": "the account of these credentials is locked: ask its administrator",
    "AllAccessDisabled": "the bucket is disabled: ask its administrator",
    "ExpiredToken": EXPIRED,
    "InvalidToken": EXPIRED,
    "TokenRefreshRequired": EXPIRED,
}
"""What refused credentials lack, by S3's error code."""
RIGHTS = {
    "reading": "s3:GetObject, and s3:ListBucket, without which S3 refuses to say that an object does not exist",
    "listing": "s3:ListBucket on the whole bucket",
    "deleting": "s3:DeleteObject",
    "writing": "s3:PutObject and s3:AbortMultipartUpload",
}
"""The rights that a refused action needs."""
OTHER_REGION = frozenset({"PermanentRedirect", "IllegalLocationConstraintException", "InvalidRegion", "301"})


@dataclass(frozen=True)
class Asked:
    """What was asked of S3."""

    action: str
    """opening, reading, writing, listing or deleting."""
    uri: str
    bucket: str
    endpoint: str | None
    """URL of the service; None is AWS."""
    conditional: bool = False
    """Whether it was a write on condition that there is no object yet."""
    encrypted: bool = False
    """Whether the write asked for encryption."""

    @property
    def what(self) -> str:
        """For the beginning of a message."""
        return f"{self.action} {self.uri}"

    @property
    def where(self) -> str:
        """The service, for messages."""
        return shown_endpoint(self.endpoint)

    @property
    def url(self) -> str:
        """The service's URL."""
        return self.endpoint or "https://s3.amazonaws.com"


def explain(error: BaseException, asked: Asked) -> StageError:
    """The error to raise for an error of botocore."""
    if isinstance(error, ClientError):
        return _refusal(error, asked)
    if isinstance(error, NO_CREDENTIALS):
        return PermanentError(
            "CredentialsMissing",
            f"{asked.what}: no usable credentials for bucket {asked.bucket} at {asked.where} ({type(error).__name__}): "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or storage.credentialsSecret in a cluster",
        )
    if isinstance(error, NO_CONNECTION):
        return unreachable(error, f"{asked.what}: bucket {asked.bucket} at {asked.where}", asked.url)
    if isinstance(error, boto.ParamValidationError):
        return PermanentError(
            "StorageInvalid", f"{asked.what}: S3 has no such name of a bucket or object: correct storage.uri"
        )
    return PermanentError(
        "StorageInvalid",
        f"{asked.what}: bucket {asked.bucket} at {asked.where} cannot be used ({type(error).__name__}): "
        "check storage.uri, storage.endpoint and storage.region, and that an S3 service answers there",
    )


def no_s3(asked: Asked) -> StageError:
    """The error to raise if an answer does not come from an S3 service."""
    return PermanentError(
        "StorageInvalid",
        f"{asked.what}: the service at {asked.where} (bucket {asked.bucket}) redirects or is not an S3 service: "
        "check storage.endpoint, its port, and whether it must begin with https://",
    )


def shown_endpoint(endpoint: str | None) -> str:
    """The endpoint for messages, without user and password."""
    if endpoint is None:
        return "AWS S3"
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _refusal(error: ClientError, asked: Asked) -> StageError:
    fault: Mapping[str, Any] = error.response.get("Error", {})
    answer: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
    code, status = str(fault.get("Code") or "unknown"), int(answer.get("HTTPStatusCode", 0))
    headers: Mapping[str, str] = answer.get("HTTPHeaders", {})
    at = f"{asked.what}: bucket {asked.bucket} at {asked.where}"
    if status == 407 or (is_page(headers) and status in (401, 403)):
        kind = "ProxyDenied" if status == 407 or proxy_of(asked.url) or "x-squid-error" in headers else "StorageInvalid"
        return PermanentError(kind, f"{at}: {page_words(asked.url, status, 'the storage')}")
    if code == "NoSuchBucket":
        return PermanentError(
            "BucketMissing",
            f"{asked.what}: bucket {asked.bucket} does not exist at {asked.where}: create it, or correct storage.uri",
        )
    # MinIO has a code for a disk that is nearly full, and an internal error if the disk fills up during an upload.
    if code in FULL_CODES or status == 507 or "no space left on device" in str(fault.get("Message", "")):
        return TransientError("StorageFull", f"{at} is full ({code}): free space or raise its quota")
    if code == "RequestTimeTooSkewed":
        return TransientError(
            "ClockWrong",
            f"{asked.what}: this machine's clock differs too much from the clock of {asked.where}, so signatures are "
            "refused: set the clock of this node (NTP)",
        )
    region = fault.get("Region") or headers.get("x-amz-bucket-region")
    if code in OTHER_REGION or (region and status in (301, 400)):
        wanted = f"set storage.region: {region}" if region else "set storage.region"
        return PermanentError("StorageInvalid", f"{at}: the bucket is in another region ({code}): {wanted}")
    if code in DENIALS or status in (401, 403) or code in ("AccessDenied", "Forbidden"):
        return PermanentError("StorageDenied", f"{at} refuses these credentials ({code}): {_denial(code, asked)}")
    if code.startswith(("KMS", "InvalidEncryption")):
        remedy = "check storage.encryption and storage.kmsKeyId, and that the service has this key"
        return PermanentError("StorageInvalid", f"{at} cannot encrypt as asked ({code}): {remedy}")
    if status in (405, 501) or code in ("NotImplemented", "MethodNotAllowed"):
        return PermanentError("StorageInvalid", f"{at} {_unknown_operation(error.operation_name, asked)}")
    if status >= 500 or status == 429 or code in BUSY_CODES:
        return TransientError("StorageUnreachable", f"{at} fails ({code}, HTTP {status}): {_busy(asked, headers)}")
    return PermanentError("StorageInvalid", f"{at} refuses the request ({code}, HTTP {status}): {_remedy(code, asked)}")


def _denial(code: str, asked: Asked) -> str:
    """What is wrong with refused credentials, or which right they lack."""
    if code in DENIALS:
        return DENIALS[code]
    words = f"they may lack {RIGHTS.get(asked.action, 'rights')}"
    if asked.action != "writing":
        return words
    if asked.encrypted:
        return f"{words}, or kms:GenerateDataKey and kms:Decrypt on the key; or the bucket's policy demands another encryption"
    return f"{words}; if they have it, the bucket's policy may demand encryption: set storage.encryption"


def _unknown_operation(operation: str, asked: Asked) -> str:
    """What the service lacks, as far as the refused operation tells."""
    if not asked.conditional:
        asked_for = f"{operation} with storage.encryption" if asked.encrypted else operation
        return f"does not implement {asked_for}: use another S3 service, or correct storage.endpoint"
    other = ", or the encryption that storage.encryption asks for" if asked.encrypted else ""
    return (
        f"lacks conditional writes (If-None-Match){other}. Conditional writes keep two attempts from publishing the same "
        "result: use AWS S3, a current MinIO, or another store that has them"
    )


def _busy(asked: Asked, headers: Mapping[str, str]) -> str:
    proxy = proxy_of(asked.url)
    if proxy and is_page(headers):
        return f"the proxy {proxy} does not reach it"
    return "try again later"


def _remedy(code: str, asked: Asked) -> str:
    """What to do about a request that is refused as wrong."""
    service = "check storage.uri and storage.endpoint, and that an S3 service answers there"
    if code in ("XMinioInvalidObjectName", "InvalidObjectName", "KeyTooLongError"):
        return "it takes no such object name: write it without //, and shorter"
    if code in ("NoSuchKey", "404"):
        return f"{service}; the endpoint must not contain the bucket, which belongs into storage.uri"
    if code == "400" and asked.url.startswith("http://"):
        return f"{service}; if its port expects TLS, write https://"
    return service
