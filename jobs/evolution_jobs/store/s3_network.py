"""Explains why no answer came from S3: name resolution, refused connection, timeout, TLS, a proxy."""

from __future__ import annotations

from botocore import exceptions as boto

from ..contract.errors import PermanentError, StageError, TransientError
from .connection import answers_without_tls, certificate_fault, how_it_failed, page_words, proxy_of

NO_CONNECTION = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.ReadTimeoutError,
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
)


def unreachable(error: BaseException, at: str, url: str) -> StageError:
    """The error to raise for an error of `NO_CONNECTION`.

    Args:
        error: what botocore raised.
        at: beginning of the message: what was done, and where.
        url: URL of the service.
    """
    # A proxy's answer to CONNECT and a certificate's fault are only in the text, which may have a password in its URL.
    text = str(error) + str(getattr(error, "kwargs", {}).get("error", ""))
    if "header value" in text:
        return PermanentError(
            "CredentialsInvalid", f"{at}: a key or token contains a line break or another character that no key has"
        )
    if isinstance(error, boto.ProxyConnectionError):
        if "407" in text or "403" in text or "Forbidden" in text:
            return PermanentError(
                "ProxyDenied", f"{at}: {page_words(url, 407 if '407' in text else 403, 'the storage')}"
            )
        return TransientError(
            "StorageUnreachable", f"{at}: cannot reach the proxy {proxy_of(url)}: check HTTPS_PROXY and HTTP_PROXY"
        )
    if fault := certificate_fault(text, "AWS_CA_BUNDLE"):
        return PermanentError("StorageUntrusted", f"{at}: {fault}")
    if "TLS CA certificate bundle" in text:
        return PermanentError("StorageUntrusted", f"{at}: AWS_CA_BUNDLE names no file with certificates: correct it")
    if answers_without_tls(text):
        return PermanentError("StorageInvalid", f"{at} answers without TLS: write http:// in storage.endpoint")
    return TransientError(
        "StorageUnreachable",
        f"{at}: cannot reach it ({_how(error, text)}): "
        "check storage.endpoint, and that the service is up and may be reached from here",
    )


def _how(error: BaseException, text: str) -> str:
    """How the connection failed. The text never contains a URL, which may have a password."""
    if words := how_it_failed(text):
        return words
    if isinstance(error, (boto.ConnectTimeoutError, boto.ReadTimeoutError)):
        return "no answer in time"
    return type(error).__name__
