"""Asks an OpenAI-compatible endpoint many chats side by side, from a stage's ordinary code."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import Any, Self

import openai

from ..contract.credentials import credential
from ..contract.endpoints import Endpoint
from ..contract.errors import PermanentError, StageError
from .answers import Answer, Chat, Usage, not_a_completion, read_answer
from .errors import explained, refusal
from .rate import Rate

POLL_SECONDS = 0.2
"""How often a wait looks whether the process was asked to stop."""
LINGER_SECONDS = 1.0
"""How long a finished answer waits for others, so that they are made durable together."""
STOP_SECONDS = 10.0
"""How long open requests, which are paid for, may still take once the process was asked to stop or one has failed."""


class EndpointClient:
    """A connection to an endpoint. Use it as a context manager: it has a thread of its own.

    The openai library retries: connections, timeouts, 408, 409, 429 and 5xx, as long as Retry-After says.
    """

    def __init__(
        self, endpoint: Endpoint, field: str, shards: int = 1, environ: Mapping[str, str] = os.environ
    ) -> None:
        """`field` is the endpoint's path in the spec, for messages; `shards` processes share the rate.

        Raises PermanentError `CredentialsMissing` if the endpoint's Secret is named and not in the environment, and
        `CredentialsInvalid`.
        """
        self._endpoint = endpoint
        self._field = field
        self._key = api_key(endpoint, field, environ)
        limit = endpoint.requests_per_minute
        self._rate = Rate(limit / shards if limit else None)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._client = openai.AsyncOpenAI(
            base_url=self._endpoint.url,
            api_key=self._key or "none",
            max_retries=self._endpoint.max_attempts - 1,
            timeout=self._endpoint.timeout_seconds,
            # The hook sees each try, also those of the library.
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"request": [self._take_turn]}),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def answers(self, chats: Iterable[Chat], stopping: Callable[[], bool] = lambda: False) -> Iterator[list[Answer]]:
        """The answers in any order, a list each time that some are complete.

        Whoever asks for the next list has made this one durable: only then new requests start. So if the process is
        killed, at most `concurrency` requests have been sent in vain. Once `stopping` is true no request starts, those
        that end soon are still yielded, and then the iterator ends early.

        Raises what `explained` and `read_answer` return and raise, after the answers that were complete.
        """
        waiting = iter(chats)
        limit = self._endpoint.concurrency
        least = max(1, limit // 4)
        open_: set[Future[Answer]] = set()
        fault: StageError | None = None
        ends_at: float | None = None
        try:
            while True:
                if ends_at is None and (stopping() or fault):
                    ends_at = time.monotonic() + STOP_SECONDS
                while ends_at is None and len(open_) < limit and (chat := next(waiting, None)) is not None:
                    open_.add(asyncio.run_coroutine_threadsafe(self._answer(chat), self._loop))
                if not open_ or (ends_at is not None and time.monotonic() >= ends_at):
                    break
                done = _some(open_, min(least, len(open_)), stopping)
                open_ -= done
                answers, faults = _sorted(done)
                fault = fault or next(iter(faults), None)
                if answers:
                    yield answers
        finally:
            for each in open_:
                each.cancel()
        if fault:
            raise fault

    async def _answer(self, chat: Chat) -> Answer:
        endpoint = self._endpoint
        # Any: which further fields a server takes is the caller's matter.
        fields: dict[str, Any] = {endpoint.token_limit_field: chat.max_tokens, **chat.options}
        headers = {} if self._key else {"Authorization": openai.Omit()}
        create: Any = self._client.chat.completions.with_raw_response.create
        try:
            raw = await create(model=endpoint.model, messages=chat.messages, extra_headers=headers, **fields)
        except openai.OpenAIError as error:
            if why := refusal(error):
                return Answer(chat.id, "", "stop", endpoint.model, Usage(), refusal=why)
            raise explained(error, endpoint, self._field) from error
        try:
            body = raw.http_response.json()
        except (ValueError, RecursionError) as error:
            raise not_a_completion(self._field, "it is no JSON") from error
        return read_answer(chat, body, raw.retries_taken, endpoint.model, self._field)

    async def _take_turn(self, _request: object) -> None:
        await asyncio.sleep(self._rate.wait(self._loop.time()))

    async def _close(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()


def api_key(endpoint: Endpoint, field: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The endpoint's key; None if it takes none. Raises PermanentError `CredentialsMissing` and `CredentialsInvalid`."""
    variable = endpoint.key_variable
    if variable is None:
        return None
    if (key := credential(variable, environ)) is None:
        raise PermanentError(
            "CredentialsMissing",
            f"{field}.apiKeySecret: {variable} is not set: export it on this machine; on a cluster, Secret "
            f"{endpoint.api_key_secret} needs the key API_KEY",
        )
    return key


def _some(open_: set[Future[Answer]], least: int, stopping: Callable[[], bool]) -> set[Future[Answer]]:
    """Requests that have ended: `least`, or fewer once the first has waited long enough or the process is to stop."""
    done: set[Future[Answer]] = set()
    first_at = None
    while len(done) < least:
        ended, _ = wait(open_ - done, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        done |= ended
        now = time.monotonic()
        first_at = first_at or (now if done else None)
        if stopping() or (first_at is not None and now - first_at >= LINGER_SECONDS):
            break
        if not done:
            break
    return done


def _sorted(done: Iterable[Future[Answer]]) -> tuple[list[Answer], list[StageError]]:
    answers, faults = [], []
    for each in done:
        try:
            answers.append(each.result())
        except StageError as error:
            faults.append(error)
    return answers, faults
