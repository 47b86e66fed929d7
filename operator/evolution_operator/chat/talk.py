"""The chat itself: a message goes to every model, and the conversation goes on from their replies."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.rows import Context, Response, Turn
from evolution_jobs.contract.settings import SamplingSettings
from evolution_jobs.engines.base import row_seed

from ..results.outputs import output_error
from .conversation import Conversation
from .display import Display
from .replies import Reply
from .session import Watch


class Models(Protocol):
    """Loaded models, as `Session` has them."""

    def answer(
        self, name: str, turns: Sequence[Turn], sampling: SamplingSettings, seed: int, watch: Watch | None = None
    ) -> Response:
        """A model's answer to these turns."""
        ...


class Stopped(Exception):
    """The user has stopped an answer, which has come this far."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class Talk:
    """A conversation with one or two models."""

    def __init__(
        self, models: Models, names: Sequence[str], sampling: SamplingSettings, seed: int, display: Display
    ) -> None:
        """`seed` decides all answers: the same messages get the same answers again."""
        self._models, self._names, self._display = models, names, display
        self._sampling, self._seed = sampling, seed
        self._tried = 0
        self._stop = False
        self.conversation = Conversation(names)

    def say(self, said: str) -> list[Reply]:
        """Every model answers. An answer that was stopped stays as far as it came, if every model has said something.

        Raises PermanentError (`PromptTooLong`, `ChatTemplate`); the conversation is then as before.
        """
        # Bytes at a prompt or in an option that are no UTF-8 come as lone surrogates, which no tokenizer or file takes.
        said = said.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        number = len(self.conversation.exchanges) + 1
        seed = row_seed(self._seed, f"chat/{number}", "answer", 1 + self._tried)
        return self._ask(said, self._sampling, seed)

    def again(self) -> list[Reply]:
        """The last message is answered again, with another seed. Raises PermanentError `ChatInput` if there is none."""
        if not self.conversation.exchanges:
            raise PermanentError("ChatInput", "/again: nothing was said yet")
        last = self.conversation.exchanges[-1].said
        self.conversation = self.conversation.undone()
        self._tried += 1
        return self.say(last)

    def begin(self, context: Context, sampling: SamplingSettings, seed: int) -> list[Reply]:
        """A new conversation, with a test context, whose last turn is answered with these settings and this seed."""
        self.conversation = Conversation.of_context(self._names, context)
        return self._ask(context.turns[-1].text, sampling, seed)

    def reset(self) -> None:
        """A new conversation."""
        self.conversation = Conversation(self._names)

    def undo(self) -> None:
        """Take back the last exchange. Raises PermanentError `ChatInput` if there is none."""
        if not self.conversation.exchanges:
            raise PermanentError("ChatInput", "/undo: nothing was said yet")
        self.conversation = self.conversation.undone()

    def save(self, file: Path) -> None:
        """Write the conversation. Raises PermanentError `ChatInput` if there is none, or the file is there already."""
        text = self.conversation.saved()
        if not text:
            raise PermanentError("ChatInput", f"/save {file}: nothing was said yet")
        if file.exists():
            raise PermanentError("ChatInput", f"/save {file}: the file exists; choose another name")
        partial = file.with_name(f".{file.name}.partial")
        try:
            partial.write_text(text, "utf-8")
            partial.replace(file)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise output_error(error, file) from error

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Within, Ctrl-C stops the answer at its next token, and a second one raises KeyboardInterrupt."""

        def stop(_signal: int, _frame: FrameType | None) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        self._stop, before = False, signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            self._stop = False

    def _ask(self, said: str, sampling: SamplingSettings, seed: int) -> list[Reply]:
        replies: list[Reply] = []
        for name in self._names:
            if self._stop:
                break
            replies.append(self._reply(name, said, sampling, seed))
        if len(replies) == len(self._names):
            self._display.answered(said, replies)
            if all(reply.text or reply.finish != "interrupted" for reply in replies):
                answers = {reply.model: reply.text for reply in replies}
                self.conversation = self.conversation.answered(said, answers)
        return replies

    def _reply(self, name: str, said: str, sampling: SamplingSettings, seed: int) -> Reply:
        def watch(response: Response) -> None:
            self._display.so_far(name, response)
            if self._stop:
                raise Stopped(response)

        self._display.begin(name)
        try:
            response = self._models.answer(name, self.conversation.turns(name, said), sampling, seed, watch)
            reply = Reply.of(name, response)
        except Stopped as stopped:
            reply = Reply.of(name, stopped.response, interrupted=True)
        except PermanentError:
            self._display.end(Reply(name, "", "interrupted", 0, 0))
            raise
        self._display.end(reply)
        return reply
