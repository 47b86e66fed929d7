"""Errors of the openai library as the project's own: field, what is wrong, what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..contract.endpoints import Endpoint
from ..contract.errors import PermanentError, StageError, TransientError, causes
from ..redaction import words_of
from ..store.connection import answers_without_tls, certificate_fault, how_it_failed, is_page, page_words
from .answers import server_words

if TYPE_CHECKING:
    import openai

QUOTA = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""Codes with status 429 that waiting does not help."""
REFUSED = ("content_filter", "context_length_exceeded", "content_policy_violation")
"""Codes by which an endpoint refuses one chat."""
_TOO_LONG = re.compile(r"context length|context window|maximum.{0,40}tokens|prompt is too long|input is too long", re.I)


def refusal(error: openai.OpenAIError) -> str | None:
    """Why the endpoint refuses this very chat and may answer others; None if the error is about more than this chat."""
    status = getattr(error, "status_code", None)
    if status not in (400, 413, 422):
        return None
    words = _said(error)
    return words if _code(error) in REFUSED or status == 413 or _TOO_LONG.search(words) else None


def explained(error: openai.OpenAIError, endpoint: Endpoint, field: str) -> StageError:
    """The error for the user. `field` is the endpoint's path in the spec."""
    status = getattr(error, "status_code", None)
    if status is None:
        return _no_answer(error, endpoint, field)
    response: Any = error.response  # type: ignore[attr-defined]
    if is_page(response.headers) and status != 429 and status < 500:
        return PermanentError("EndpointRefused", f"{field}.url: {page_words(endpoint.url, status, 'the endpoint')}")
    said = f"HTTP {status}: {_said(error)}"
    if status in (401, 403):
        return PermanentError("EndpointDenied", f"{_key_field(endpoint, field)} ({said})")
    if status == 402 or (status == 429 and _code(error) in QUOTA):
        return PermanentError(
            "EndpointQuotaExceeded",
            f"{field}: the account's quota is used up ({said}): raise it, then retry; finished answers are kept",
        )
    if status == 404:
        return _not_found(error, endpoint, field, said)
    if status in (408, 409, 425, 429):
        return TransientError(
            "EndpointBusy",
            f"{field}: the endpoint still refuses after {endpoint.max_attempts} attempts ({said}): lower "
            f"{field}.concurrency or set {field}.requestsPerMinute",
        )
    if status >= 500:
        return TransientError(
            "EndpointUnreachable", f"{field}.url: {endpoint.url} fails after {endpoint.max_attempts} attempts ({said})"
        )
    return PermanentError(
        "EndpointRefused", f"{field}: the endpoint refuses the request ({said}): correct the setting that it names"
    )


def _no_answer(error: openai.OpenAIError, endpoint: Endpoint, field: str) -> StageError:
    told = " ".join(str(each) for each in causes(error))
    if fault := certificate_fault(told, "SSL_CERT_FILE"):
        return PermanentError("EndpointUntrusted", f"{field}.url: {endpoint.url}: {fault}")
    if answers_without_tls(told):
        return PermanentError("EndpointRefused", f"{field}.url: {endpoint.url} does not speak TLS: write http://")
    if "Timeout" in type(error).__name__:
        how = f"no answer within {endpoint.timeout_seconds} s; raise {field}.timeoutSeconds if its model is slow"
    else:
        how = how_it_failed(told) or next(filter(None, map(words_of, reversed(list(causes(error))))), "no connection")
    return TransientError(
        "EndpointUnreachable",
        f"{field}.url: {endpoint.url} cannot be reached ({how}): is it up, and may this process reach it?",
    )


def _not_found(error: openai.OpenAIError, endpoint: Endpoint, field: str, said: str) -> PermanentError:
    words = _said(error)
    if _code(error) == "model_not_found" or endpoint.model in words or "model" in words.lower():
        return PermanentError(
            "EndpointModelMissing",
            f"{field}.model: the endpoint has no model {endpoint.model} for this key ({said}); "
            f"GET {endpoint.url.rstrip('/')}/models lists those it has",
        )
    return PermanentError(
        "EndpointRefused",
        f"{field}.url: {endpoint.url} has no chat/completions below it ({said}): it must end with the API's version, "
        "such as /v1",
    )


def _key_field(endpoint: Endpoint, field: str) -> str:
    if endpoint.key_variable is None:
        return f"{field}.apiKeySecret: the endpoint asks for a key, and none is set: name a Secret with the key API_KEY"
    return (
        f"{field}.apiKeySecret: the endpoint refuses the key of Secret {endpoint.api_key_secret} (variable "
        f"{endpoint.key_variable}), or it has no right to {endpoint.model}: correct it"
    )


def _body(error: openai.OpenAIError) -> Any:
    return getattr(error, "body", None)


def _code(error: openai.OpenAIError) -> str:
    body = _body(error)
    found = [body.get("code"), body.get("type")] if isinstance(body, Mapping) else []
    return next((each for each in found if each in (*QUOTA, *REFUSED, "model_not_found")), "")


def _said(error: openai.OpenAIError) -> str:
    """The server's own message, on one line. A server may repeat part of a key, which it then masks itself."""
    body = _body(error)
    # FastAPI, and so vLLM and `transformers serve`, may say `detail`.
    message = body.get("message") or body.get("detail") if isinstance(body, Mapping) else None
    return server_words(message or error)
