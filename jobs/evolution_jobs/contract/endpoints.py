"""An OpenAI-compatible endpoint: where another model answers, and how it may be asked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .credentials import credential_prefix
from .document import Document, NotInKey

API_KEY = "API_KEY"
"""Key of the Secret that holds an endpoint's API key."""


SecretName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Rate = Annotated[int, Field(ge=1, le=1_000_000)]
Price = Annotated[float, Field(ge=0, le=1_000_000)]


class Endpoint(Document):
    """An OpenAI-compatible endpoint. The model decides its answers; where and how fast it is asked does not."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s?#@]+$", max_length=1024), NotInKey]
    """Address of the API with its version, such as `https://api.openai.com/v1`. It is in no key, so the same model may move."""
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """Name of the model, as the endpoint knows it."""
    api_key_secret: Annotated[SecretName | None, NotInKey] = None
    """Secret whose key `API_KEY` holds the API key; only the Pods that ask the endpoint get it. On one machine, the variable `CREDENTIALS_<SECRET>_API_KEY` holds it, the name in upper case with `_` for `-`. Unset sends no key."""
    concurrency: Annotated[int, Field(ge=1, le=1024), NotInKey] = 8
    """Requests that one process has open at a time. As many may be paid twice if the process is killed."""
    requests_per_minute: Annotated[Rate | None, NotInKey] = None
    """Most requests a minute, retries included, over all shards; unset sets no limit."""
    timeout_seconds: Annotated[int, Field(ge=1, le=3600), NotInKey] = 120
    """Longest wait for an answer."""
    max_attempts: Annotated[int, Field(ge=1, le=100), NotInKey] = 6
    """Tries of one request if the endpoint is busy, fails or does not answer. Waits as long as its Retry-After says, at most two minutes."""
    price_per_million_input_tokens: Annotated[Price | None, NotInKey] = None
    """Price of a million input tokens, in any currency; the manifest then says what the answers cost."""
    price_per_million_output_tokens: Annotated[Price | None, NotInKey] = None
    """Price of a million output tokens."""
    token_limit_field: Annotated[Literal["max_tokens", "max_completion_tokens"], NotInKey] = "max_tokens"  # noqa: S105
    """The API's field for the longest answer. OpenAI's reasoning models take `max_completion_tokens` only."""

    @property
    def key_variable(self) -> str | None:
        """Name of the environment variable with the API key; None if the endpoint takes none."""
        return f"{credential_prefix(self.api_key_secret)}{API_KEY}" if self.api_key_secret else None

    def cost(self, input_tokens: int, output_tokens: int) -> float | None:
        """What so many tokens cost; None if no price is known."""
        prices = self.price_per_million_input_tokens, self.price_per_million_output_tokens
        if prices == (None, None):
            return None
        return (input_tokens * (prices[0] or 0) + output_tokens * (prices[1] or 0)) / 1e6
