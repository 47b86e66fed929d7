"""The interface between stages and whatever samples text: requests in, responses out, in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..chat.chats import Chats, Passage
from ..contract.rows import Message, Response
from ..contract.settings import SamplingSettings


@dataclass(frozen=True)
class Sampling:
    """How the next token is sampled."""

    temperature: float
    """0 takes the most likely token."""
    top_p: float
    top_k: int
    """0 keeps all tokens."""
    repetition_penalty: float
    """On tokens of the prompt and of the answer so far (Keskar et al., arXiv 1909.05858); 1 is no penalty."""

    @classmethod
    def of(cls, settings: SamplingSettings) -> Sampling:
        """The part of a stage's settings that decides how tokens are sampled."""
        return cls(settings.temperature, settings.top_p, settings.top_k, settings.repetition_penalty)


@dataclass(frozen=True)
class Request:
    """One chat that the model is to answer."""

    id: str
    messages: list[Message]
    """Roles alternate after an optional system message; the last is the user's."""
    sampling: Sampling
    seed: int
    """Of this request: apart from rounding, the same request gets the same text in any batch."""
    max_new_tokens: int
    max_prompt_tokens: int
    schema: dict[str, Any] | None = None
    """JSON schema that the text must follow: an object with strings of limited length or given values."""
    keep: int = 1
    """Number of messages at the end that are kept if the prompt is too long."""
    extended: bool = True
    """Whether a later prompt may extend this chat and its answer."""


Follow = Callable[[Response], Request | None]
"""Called with each response before it is yielded. Returns the row's next request, whose chat extends the answered one, or None."""

Watch = Callable[[Response], None]
"""Called with the response so far after each token but the last. What it raises ends the sampling."""


class Engine(Protocol):
    """A model that answers chats."""

    name: str
    """Library and version, for the manifest: `vllm 0.33.0`."""
    chats: Chats
    """How the model writes chats."""
    positions: int | None
    """The longest passage in tokens; None if there is no limit."""

    def batches(self, requests: Iterable[Request]) -> Iterator[list[Request]]:
        """The requests in parts that are best sampled together. A stage makes rows durable within a part and at its end."""
        ...

    def generate(self, requests: Iterable[Request], follow: Follow | None = None) -> Iterator[Response]:
        """One response a request, and one for each request that `follow` adds, each as soon as it is complete.

        Raises PermanentError if a request cannot be answered at all: its prompt does not fit even without history.
        """
        ...

    def answer_losses(self, passages: Sequence[Passage]) -> Iterator[tuple[int, float]]:
        """Each passage's position and the negative log-likelihood of its answer, in nats, in any order.

        It is the sum over the answer's tokens, under the model itself: no temperature, no penalty.
        """
        ...

    def close(self) -> None:
        """Give back the memory that the model takes, as far as the library can. No other method is called afterwards."""
        ...


def row_seed(seed: int, id: str, purpose: str, attempt: int = 1) -> int:
    """The seed of one text, from 0 to 2**63 - 1: a hash of the run's seed, the row, the text's purpose and the attempt."""
    digest = hashlib.sha256(f"{seed}/{id}/{purpose}/{attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
