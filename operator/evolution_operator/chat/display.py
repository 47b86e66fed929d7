"""How replies reach the user: as they are sampled, side by side, or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Protocol

from evolution_jobs.contract.rows import Response
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from .replies import Reply, Stream

WIDE = 100
"""Columns from which on two answers stand side by side."""


class Display(Protocol):
    """Where replies are shown."""

    def begin(self, model: str) -> None:
        """A model begins to answer."""
        ...

    def so_far(self, model: str, response: Response) -> None:
        """What it has said until now."""
        ...

    def end(self, reply: Reply) -> None:
        """It has answered, or was stopped."""
        ...

    def answered(self, said: str, replies: Sequence[Reply]) -> None:
        """All models have answered. Not called if an error came between."""
        ...


class Streamed:
    """One answer below the other, each as it is sampled."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stream = Stream()

    def begin(self, model: str) -> None:
        self._stream = Stream()
        self._console.print(Text(f"{model}> ", style="bold cyan"), end="")
        self._flush()

    def so_far(self, model: str, response: Response) -> None:
        self._write(self._stream.piece(response.text))

    def end(self, reply: Reply) -> None:
        self._write(self._stream.piece(reply.text, last=True) + "\n")
        if notes := "; ".join(reply.notes):
            self._console.print(Text(f"({notes})", style="dim"), soft_wrap=True)

    def answered(self, said: str, replies: Sequence[Reply]) -> None:
        _say_if_same(self._console, replies)

    def _write(self, piece: str) -> None:
        self._console.print(Text(piece), end="", soft_wrap=True)
        self._flush()

    def _flush(self) -> None:
        self._console.file.flush()


class SideBySide:
    """Two answers as two columns, once both are there."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None

    def begin(self, model: str) -> None:
        self._status = self._console.status(f"{model} answers")
        self._status.start()

    def so_far(self, model: str, response: Response) -> None:
        if self._status:
            self._status.update(f"{model} answers: {response.tokens} tokens")

    def end(self, reply: Reply) -> None:
        if self._status:
            self._status.stop()

    def answered(self, said: str, replies: Sequence[Reply]) -> None:
        table = Table(expand=True, show_lines=False)
        for reply in replies:
            table.add_column(reply.model, ratio=1, overflow="fold")
        table.add_row(*(Text(reply.shown) for reply in replies))
        if any(reply.notes for reply in replies):
            table.add_row(*(Text(f"({'; '.join(reply.notes)})" if reply.notes else "", "dim") for reply in replies))
        self._console.print(table)
        _say_if_same(self._console, replies)


class Json:
    """One JSON document a line for each message."""

    def begin(self, model: str) -> None:
        pass

    def so_far(self, model: str, response: Response) -> None:
        pass

    def end(self, reply: Reply) -> None:
        pass

    def answered(self, said: str, replies: Sequence[Reply]) -> None:
        document = {"said": said, "answers": [reply.wire() for reply in replies]}
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def _say_if_same(console: Console, replies: Sequence[Reply]) -> None:
    """Two models that hardly differ often give one answer, because they sample with one seed."""
    if len(replies) > 1 and len({reply.text for reply in replies}) == 1:
        console.print(Text("(the same answer, word for word)", style="dim"))


def display_of(console: Console, models: int) -> Display:
    """The display for text: side by side if there are two models and the terminal is wide enough."""
    wide = console.is_terminal and console.width >= WIDE
    return SideBySide(console) if models > 1 and wide else Streamed(console)
