"""Explains errors of the Hugging Face Hub to the user: one line with the cause and the remedy, no words of a library."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import TypeGuard

from ..contract.errors import PermanentError, StageError, TransientError, causes
from ..redaction import words_of
from ..store.base import disk_error
from ..store.connection import (
    answers_without_tls,
    certificate_fault,
    how_it_failed,
    is_page,
    page_words,
    proxy_of,
)

TRANSIENT = {
    408: "it took too long",
    416: "a file changed while it was fetched",
    425: "it is not ready",
    429: "it limits the number of requests; with a token (HF_TOKEN) it allows more",
}
"""HTTP errors below 500 that pass by themselves."""


def explain(error: Exception, what: str, offline: bool) -> StageError:
    """The error to raise for an error of `huggingface_hub`, or of a library that uses it.

    Args:
        error: what the library raised.
        what: the field and the repository.
        offline: whether HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import errors

    for cause in causes(error):
        if _of_the_disk(cause):
            return disk_error(cause, "the hub's cache")
        response = getattr(cause, "response", None)
        if (status := getattr(response, "status_code", None)) is not None and status >= 400:
            return _refusal(cause, status, getattr(response, "headers", {}), what)
    if isinstance(error, errors.HFValidationError):
        return PermanentError("HubInvalid", f"{what}: {words_of(error)}")
    if offline:
        hint = "fetch it once while online, or unset HF_HUB_OFFLINE"
        return PermanentError("HubOffline", f"{what} is not in this machine's cache and HF_HUB_OFFLINE is set: {hint}")
    # LocalEntryNotFoundError ("not in the cache") means that the hub could not be reached.
    if isinstance(error, FileNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return PermanentError("HubMissing", f"{what}: a file is missing there: {words_of(error)}")
    return _no_answer(error, what)


def _of_the_disk(error: BaseException) -> TypeGuard[OSError]:
    """Whether the cache cannot be written. A refused connection has such an errno, too, but no file."""
    if not isinstance(error, OSError):
        return False
    denied = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ESTALE) and error.filename is not None
    return denied or error.errno in (errno.ENOSPC, errno.EDQUOT)


def _refusal(error: BaseException, status: int, headers: Mapping[str, str], what: str) -> StageError:
    from huggingface_hub import constants, errors

    if status == 407 or (is_page(headers) and status < 500):
        denies = status in (401, 403, 407) and (
            status == 407 or proxy_of(constants.ENDPOINT) or "x-squid-error" in headers
        )
        words = page_words(constants.ENDPOINT, status, "the hub")
        hint = "" if denies else "; check HF_ENDPOINT"
        return PermanentError("ProxyDenied" if denies else "HubInvalid", f"{what}: {words}{hint}")
    if isinstance(error, errors.GatedRepoError):
        return PermanentError(
            "HubDenied", f"{what} is gated: accept its terms on the hub and give its token (HF_TOKEN)"
        )
    if isinstance(error, errors.DisabledRepoError):
        return PermanentError("HubDenied", f"{what}: the hub has disabled access to it")
    if isinstance(error, errors.RevisionNotFoundError):
        return PermanentError("HubMissing", f"{what} has no such revision: correct it")
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = "does not exist, or is private and the token (HF_TOKEN) is missing, or may not read it"
        return PermanentError("HubMissing", f"{what} {hint}")
    if status == 401:
        hint = "wrong, expired or revoked: create another one"
        return PermanentError(
            "HubDenied", f"{what}: the hub does not accept the token (HF_TOKEN): it is {hint} (HTTP 401)"
        )
    if status == 403:
        hint = "give it read access to this repository, and to gated ones if it is gated"
        return PermanentError("HubDenied", f"{what}: the token (HF_TOKEN) may not read it (HTTP 403): {hint}")
    if status == 404:
        return PermanentError("HubMissing", f"{what}: the hub has no such file or page (HTTP 404): correct the name")
    if status >= 500 or status in TRANSIENT:
        why = TRANSIENT.get(status, "it has a fault of its own")
        return TransientError("HubUnreachable", f"{what}: the hub does not answer now (HTTP {status}): {why}")
    return PermanentError(
        "HubInvalid", f"{what}: the hub refuses the request (HTTP {status}): check the URI and HF_ENDPOINT"
    )


def _no_answer(error: Exception, what: str) -> StageError:
    """Why no answer came. The text of the error is only searched: it may quote a token."""
    from huggingface_hub import constants

    chain = list(causes(error))
    text = " ".join(str(cause) for cause in chain)
    kinds = {type(cause).__name__ for cause in chain}
    if "header value" in text or "UnicodeEncodeError" in kinds:
        return PermanentError(
            "CredentialsInvalid",
            f"{what}: the token (HF_TOKEN) contains a line break or another character that no token has",
        )
    if "ProxyError" in kinds:
        if "403" in text or "407" in text or "Forbidden" in text:
            words = page_words(constants.ENDPOINT, 407 if "407" in text else 403, "the hub")
            return PermanentError("ProxyDenied", f"{what}: {words}")
        return TransientError("HubUnreachable", f"{what}: cannot reach the proxy {proxy_of(constants.ENDPOINT)}")
    if fault := certificate_fault(text, "SSL_CERT_FILE"):
        return PermanentError("HubUntrusted", f"{what}: the hub is at {_host(constants.ENDPOINT)}, and {fault}")
    if answers_without_tls(text):
        return PermanentError(
            "HubInvalid", f"{what}: {_host(constants.ENDPOINT)} answers without TLS: correct HF_ENDPOINT"
        )
    if kinds & {"InvalidURL", "UnsupportedProtocol", "JSONDecodeError"}:
        return PermanentError(
            "HubInvalid", f"{what}: no hub answers at {_host(constants.ENDPOINT)}: correct HF_ENDPOINT"
        )
    how = how_it_failed(text) or (
        "no answer in time" if any("Timeout" in kind for kind in kinds) else type(error).__name__
    )
    return TransientError("HubUnreachable", f"{what}: cannot reach the hub at {_host(constants.ENDPOINT)} ({how})")


def _host(url: str) -> str:
    scheme, _, place = url.partition("://")
    return f"{scheme}://{place.rpartition('@')[2]}"
