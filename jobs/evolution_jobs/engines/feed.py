"""The order in which requests reach an engine that makes its own batches: it must never run empty. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from ..contract.rows import Response
from .base import Request

Key = tuple[str, int]
"""Of a request: its row and its seed, which is another one for each text of a row."""


class Sampler(Protocol):
    """What samples rows, a token of each row a step."""

    def room(self) -> int:
        """How many more requests it can take now."""
        ...

    def start(self, request: Request) -> None:
        """Take a request."""
        ...

    def step(self) -> list[tuple[Request, Response]]:
        """Sample a token of each row. Returns the rows that have ended."""
        ...


class Feed:
    """Hands requests to a sampler: those that are asked for, and in what room is left those that were announced.

    A stage asks for one part of its requests at a time, to make its rows durable. The sampler would be nearly empty
    while the last rows of a part end, so it begins with later parts then. Their responses wait until they are asked for.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._announced: dict[Key, Request] = {}
        self._begun: set[Key] = set()
        self._early: dict[Key, Response] = {}

    def announce(self, requests: Iterable[Request]) -> None:
        """Requests that will be asked for later, in this order."""
        self._announced |= {_key(request): request for request in requests}

    def responses(
        self, requests: Iterable[Request], follow: Callable[[Response], Request | None] | None = None
    ) -> Iterator[Response]:
        """One response a request, as rows end, and one for each request that `follow` returns for a response."""
        asked: deque[Request] = deque()
        awaited: set[Key] = set()
        ended: list[tuple[Key, Response]] = []

        def ask(request: Request) -> None:
            key = _key(request)
            self._announced.pop(key, None)
            awaited.add(key)
            if key in self._early:
                ended.append((key, self._early.pop(key)))
            elif key not in self._begun:
                asked.append(request)

        for request in requests:
            ask(request)
        try:
            while awaited:
                while ended:
                    key, response = ended.pop()
                    awaited.remove(key)
                    self._begun.discard(key)
                    if follow and (later := follow(response)):
                        ask(later)
                    yield response
                if awaited:
                    self._start(asked)
                    for request, response in self._sampler.step():
                        if (key := _key(request)) in awaited:
                            ended.append((key, response))
                        else:
                            self._early[key] = response
        finally:  # a caller that stops early may ask again
            self._early |= ended

    def _start(self, asked: deque[Request]) -> None:
        for _ in range(self._sampler.room()):
            if asked:
                request = asked.popleft()
            elif self._announced:
                request = self._announced.pop(next(iter(self._announced)))
            else:
                return
            self._sampler.start(request)
            self._begun.add(_key(request))


def _key(request: Request) -> Key:
    return request.id, request.seed
