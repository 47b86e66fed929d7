"""What an endpoint is asked, and what it answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..contract.errors import PermanentError, TransientError
from ..contract.rows import Message
from ..redaction import redacted


@dataclass(frozen=True)
class Chat:
    """One chat that the endpoint's model is to answer."""

    id: str
    messages: list[Message]
    max_tokens: int
    options: Mapping[str, Any]
    """More of the request's fields, such as `temperature`."""


@dataclass(frozen=True)
class Usage:
    """What an answer took."""

    input_tokens: int = 0
    output_tokens: int = 0
    retries: int = 0
    """Tries that failed before the one that was answered."""

    def wire(self) -> dict[str, int]:
        """For a durable row."""
        return {"inputTokens": self.input_tokens, "outputTokens": self.output_tokens, "retries": self.retries}


@dataclass(frozen=True)
class Answer:
    """The answer to a chat."""

    id: str
    text: str
    finish: Literal["stop", "length"]
    model: str
    """The model as the server names it, often with a date or version."""
    usage: Usage
    refusal: str | None = None
    """Why the endpoint does not answer this very chat: its content filter, or the chat's length."""


def read_answer(chat: Chat, body: Any, retries: int, asked_model: str, field: str) -> Answer:
    """The answer in a response's JSON.

    Raises PermanentError `EndpointAnswerInvalid`, which says what is missing, if it is no chat completion; TransientError
    `EndpointBusy` if it is an error of a server behind the endpoint.
    """
    if isinstance(body, Mapping) and body.get("error") and not body.get("choices"):
        raise TransientError(
            "EndpointBusy", f"{field}: the endpoint answers with an error: {_error_words(body['error'])}"
        )
    choice = _first(body)
    message = choice.get("message") if isinstance(choice, Mapping) else None
    content = _joined(message.get("content")) if isinstance(message, Mapping) else None
    if not isinstance(message, Mapping) or not isinstance(content, str | None):
        raise not_a_completion(field, _shape(body))
    used = body.get("usage")
    used = used if isinstance(used, Mapping) else {}
    text, ended = _encodable(content or ""), choice.get("finish_reason")
    refusal = message.get("refusal") or ("its content filter stopped the answer" if ended == "content_filter" else None)
    return Answer(
        id=chat.id,
        text=text,
        finish="length" if ended == "length" else "stop",
        model=_encodable(str(body.get("model") or asked_model)),
        usage=Usage(_count(used.get("prompt_tokens")), _count(used.get("completion_tokens")), retries),
        refusal=server_words(refusal) if refusal else None,
    )


def server_words(said: Any) -> str:
    """What a server says of a fault, for a message or a row: one line, short, and without credentials."""
    return redacted(_encodable(" ".join(str(said).split())))[:300]


def not_a_completion(field: str, found: str) -> PermanentError:
    """The error for an answer that is no chat completion."""
    return PermanentError(
        "EndpointAnswerInvalid",
        f"{field}.url: the answer is no chat completion ({found}): is this the address of an OpenAI-compatible API, and "
        "does it end with its version, such as /v1?",
    )


def _joined(content: Any) -> Any:
    """The text of an answer that comes in parts; anything else as it is."""
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        return content
    return "".join(str(part.get("text") or "") for part in content if part.get("type") in (None, "text"))


def _encodable(text: str) -> str:
    """The text with half surrogate pairs replaced: JSON may hold them, and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _error_words(error: Any) -> str:
    return server_words((error.get("message") if isinstance(error, Mapping) else None) or error)


def _first(body: Any) -> Any:
    choices = body.get("choices") if isinstance(body, Mapping) else None
    return choices[0] if isinstance(choices, list) and choices else None


def _shape(body: Any) -> str:
    if not isinstance(body, Mapping):
        return "it is no JSON object"
    return "it has no choices[0].message.content" if body.get("choices") else "it has no choices"


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
