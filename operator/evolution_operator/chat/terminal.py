"""Where messages come from: a terminal with commands, or lines of standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from evolution_jobs.contract.errors import PermanentError, StageError
from evolution_jobs.contract.rows import Context
from evolution_jobs.printable import printable
from rich.console import Console
from rich.text import Text

from .commands import COMMANDS, Command, Mistake, message, parse
from .replies import KEPT, Reply
from .talk import Talk
from .tested import Tested

GREETING = (
    "A research model: it is no therapist, and what it says may be wrong or harmful. In danger, call your local emergency "
    "number. /help lists commands, Ctrl-D ends the chat."
)


class Terminal:
    """A chat at a terminal."""

    def __init__(self, console: Console, talk: Talk, tested: Tested) -> None:
        self._console, self._talk, self._tested = console, talk, tested

    def run(self) -> None:
        """Read messages and commands until the user ends the chat."""
        try:
            import_module("readline")  # line editing and a history in `input`
        except ImportError:  # not in every build of Python
            pass
        self._print(GREETING)
        while True:
            try:
                line = input("you> ")
            except EOFError:
                self._console.print()
                return
            except KeyboardInterrupt:
                self._console.print()
                self._print("Ctrl-D or /quit ends the chat; Ctrl-C stops an answer.")
                continue
            if line.strip() and not self._take(line):
                return

    def _take(self, line: str) -> bool:
        """Take a line; whether the chat goes on."""
        found = parse(line)
        try:
            match found:
                case None:
                    with self._talk.stoppable():
                        self._talk.say(message(line))
                case Mistake(words):
                    self._print(words)
                case Command("/quit"):
                    return False
                case Command():
                    self._obey(found)
        except StageError as error:
            self._print(f"{error.reason}: {error}")
        return True

    def _obey(self, command: Command) -> None:
        match command.name:
            case "/reset":
                self._talk.reset()
                self._print("A new conversation.")
            case "/undo":
                self._talk.undo()
                self._print("Taken back.")
            case "/again":
                with self._talk.stoppable():
                    self._talk.again()
            case "/save":
                self._save(command.argument)
            case "/context" if command.argument:
                self.begin(int(command.argument))
            case "/context":
                self._print(f"The test set has contexts 1 to {len(self._tested.contexts)}: /context 1")
            case _:
                for name, what in COMMANDS.items():
                    self._print(f"{name:<12} {what}")

    def _save(self, place: str) -> None:
        try:
            file = Path(place).expanduser()
            self._talk.save(file)
        except (RuntimeError, ValueError) as error:
            raise PermanentError("ChatInput", f"/save {place}: this is no path of a file ({error})") from error
        self._print(f"Saved to {file}")

    def begin(self, number: int) -> None:
        """Begin with a test context: print it, let the models answer, and print what the person in the data set said."""
        context = self._tested.context(number)
        for line in spoken(context):
            self._print(line)
        with self._talk.stoppable():
            replies = self._tested.ask(self._talk, context)
        self._print(f"human> {printable(context.human, KEPT)}")
        for line in self._tested.compared(context, replies):
            self._print(line)

    def _print(self, words: str) -> None:
        self._console.print(Text(printable(words, KEPT), style="dim"), soft_wrap=True)


def spoken(context: Context) -> list[str]:
    """The turns of a context as lines."""
    return [f"{turn.role}> {printable(turn.text, KEPT)}" for turn in context.turns]


def answer_lines(talk: Talk, lines: Iterable[str]) -> list[Reply]:
    """Answer each line that is not empty, as one conversation. Lines of a pipe are no commands. Returns the last replies."""
    replies: list[Reply] = []
    for line in lines:
        if said := line.strip():
            replies = talk.say(said)
    return replies


def standard_input() -> Iterable[str]:
    """Lines of standard input; bytes that are no UTF-8 become replacement characters."""
    return (line.decode("utf-8", "replace") for line in sys.stdin.buffer)
