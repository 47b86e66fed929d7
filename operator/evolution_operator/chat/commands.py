"""Commands of the chat: lines that begin with a slash. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

COMMANDS = {
    "/reset": "begin a new conversation",
    "/undo": "take back the last message and its answers",
    "/again": "answer the last message again, with other seeds",
    "/context N": "begin with context N of the test set; /context alone says how many there are",
    "/save FILE": "write the conversation as JSON Lines in the layout messages",
    "/help": "show these commands",
    "/quit": "end the chat, as Ctrl-D does",
}
"""Each command and what it does."""

_NAMES = {each.split()[0]: each for each in COMMANDS}


class Command(NamedTuple):
    """A command and what follows its name."""

    name: str
    argument: str = ""


class Mistake(NamedTuple):
    """Why a line that begins with a slash is no command."""

    words: str


def parse(line: str) -> Command | Mistake | None:
    """The command in a line; None if the line is a message. `//` begins a message that begins with one slash."""
    if not line.startswith("/") or line.startswith("//"):
        return None
    name, _, argument = line.strip().partition(" ")
    argument = argument.strip()
    if name not in _NAMES:
        return Mistake(f"there is no command {name}; /help lists them, and // begins a message with a slash")
    takes = " " in _NAMES[name]
    if argument and not takes:
        return Mistake(f"{name} takes nothing after it")
    if not argument and takes and name != "/context":
        return Mistake(f"write {_NAMES[name]}")
    if argument and name == "/context" and not re.fullmatch(r"\d{1,9}", argument):
        return Mistake("write /context N, where N is the number of a test context: /context 1")
    return Command(name, argument)


def message(line: str) -> str:
    """The message in a line that is no command."""
    return (line[1:] if line.startswith("//") else line).strip()
