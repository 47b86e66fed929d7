"""An OpenAI-compatible server for tests: SmolLM2-135M answers over real HTTP, and faults can be switched on.

It is this project's own, on http.server, so that tests without torch have one, and faults that no real server makes when
it is asked to. tests/support/model_server.py starts `transformers serve`. It answers /v1/chat/completions by the project's transformers engine (`model_reply`), or by a function of
the chat (`reply`) where a test is about the connection and not about the text.

    with serving(reply) as server:
        server.faults.append(Fault(429, retry_after=0.01))
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Reply = Callable[[dict[str, Any]], str]
"""From a request's JSON to the answer's text."""

MODEL = "smollm2-135m"
REPORTED = "smollm2-135m-2026-01-01"
"""The model's name in answers: with a date, as hosted models have it."""


@dataclass(frozen=True)
class Fault:
    """What one request gets in place of an answer."""

    status: int = 500
    """0 closes the connection without an answer."""
    code: str | None = None
    message: str = "on purpose"
    retry_after: float | None = None
    detail: bool = False
    """FastAPI's form of an error."""
    page: str | None = None
    """HTML in place of JSON."""


@dataclass
class ChatServer:
    """What the server has seen, and what it does next."""

    reply: Reply
    key: str | None = None
    """The API key that it demands."""
    faults: list[Fault] = field(default_factory=list)
    """One for each of the next requests."""
    always: Fault | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Requests that were answered: each of them is paid for."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """Headers of every request."""
    open: int = 0
    most_open: int = 0
    """Most requests at one time."""
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(reply: Reply, **options: Any) -> Iterator[ChatServer]:
    """A server on a free port of this machine, until the block ends."""
    state = ChatServer(reply, **options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.headers.append({name.lower(): value for name, value in self.headers.items()})
                state.open += 1
                state.most_open = max(state.most_open, state.open)
                fault = state.always or (state.faults.pop(0) if state.faults else self._refused(body))
            try:
                if fault is None:
                    text = state.reply(body)
                    with state.lock:
                        state.asked.append(body)
                    self._send(200, completion(text))
                elif fault.status == 0:
                    self.close_connection = True
                else:
                    self._fail(fault)
            except ConnectionError:
                self.close_connection = True
            finally:
                with state.lock:
                    state.open -= 1

        def _refused(self, body: dict[str, Any]) -> Fault | None:
            if state.key is not None and self.headers["Authorization"] != f"Bearer {state.key}":
                return Fault(401, "invalid_api_key", f"Incorrect API key provided: {self.headers['Authorization']}")
            if not self.path.startswith("/v1/chat/completions"):
                return Fault(404, message="Not Found")
            if body["model"] != MODEL:
                return Fault(404, "model_not_found", f"The model `{body['model']}` does not exist")
            return None

        def _fail(self, fault: Fault) -> None:
            if fault.page is not None:
                self._send(fault.status, fault.page, kind="text/html")
                return
            error = {"message": fault.message, "type": "error", "code": fault.code}
            headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            self._send(fault.status, {"detail": fault.message} if fault.detail else {"error": error}, headers)

        def _send(
            self, status: int, body: Any, headers: dict[str, str] | None = None, kind: str = "application/json"
        ) -> None:
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text: str) -> dict[str, Any]:
    """A chat completion of 10 input tokens and a token a word."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": REPORTED,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 10, "completion_tokens": len(text.split()), "total_tokens": 0},
    }


def model_reply(model: Path) -> Reply:
    """Answers by the real model in a directory, greedily, one chat at a time."""
    from evolution_jobs.engines.base import Request, Sampling
    from evolution_jobs.engines.transformers_engine import TransformersEngine

    engine, lock = TransformersEngine.load(model, None, "float32", 4096, None), threading.Lock()

    def reply(body: dict[str, Any]) -> str:
        request = Request(
            id="chat",
            messages=body["messages"],
            sampling=Sampling(body.get("temperature", 0), 1.0, 0, 1.2),
            seed=0,
            max_new_tokens=body["max_tokens"],
            max_prompt_tokens=1024,
        )
        with lock:
            return next(iter(engine.generate([request]))).text

    return reply
