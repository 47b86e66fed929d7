"""An engine whose texts a function writes, for tests of stages where the text does not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from evolution_jobs.contract.rows import Response
from evolution_jobs.engines.base import Follow, Request


class ScriptedEngine:
    """Answers by a function of the request; asks are shared out in twos, so that rows are made durable often.

    A text that ends with ~ is one that was cut off. Of the request cc-7, two turns are left out.
    """

    name = "scripted 1"

    def __init__(self, answer: Callable[[Request], str]) -> None:
        self.answer = answer
        self.asked: list[Request] = []
        self.closed = False

    def batches(self, requests: Iterable[Request]) -> Iterator[list[Request]]:
        requests = list(requests)
        yield from (requests[start : start + 2] for start in range(0, len(requests), 2))

    def generate(self, requests: Iterable[Request], follow: Follow | None = None) -> Iterator[Response]:
        waiting = list(requests)
        while waiting:
            request = waiting.pop()
            self.asked.append(request)
            text, finish = self.answer(request), "stop"
            if text.endswith("~"):
                text, finish = text[:-1], "length"
            left_out = 2 if request.id == "cc-7" else 0
            response = Response(id=request.id, text=text, finish=finish, tokens=5, truncated_turns=left_out)
            if follow and (later := follow(response)):
                waiting.append(later)
            yield response

    def close(self) -> None:
        self.closed = True
