"""Values out of a record; what is not as its layout says raises a BadRow that names the field. Pure."""

from __future__ import annotations

from typing import Any

from .json_text import kind


class BadRow(ValueError):
    """A record cannot be read as a row; the message says why."""


def as_text(value: Any, where: str) -> str:
    """The value, if it is text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise BadRow(f"{where} is {kind(value)}, not text")
    if "\0" in value:
        raise BadRow(f"{where} has a NUL character (\\u0000), which is no part of a text: remove it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{where} has half of a surrogate pair (\\ud800 to \\udfff), which is not a character") from None
    return value


def as_turns(value: Any, where: str) -> list[dict[str, Any]]:
    """The value, if it is a list of objects."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        raise BadRow(f"{where} is text that holds JSON, not a list: write the list itself, without quotes around it")
    if not isinstance(value, list):
        raise BadRow(f"{where} leads to {kind(value)}, not to a list")
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, dict):
            raise BadRow(f"turn {number} is {kind(turn)}, not an object: remove it, or write the turn")
    return value


def at(value: Any, path: str, where: str) -> Any:
    """The value at a dotted path."""
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            raise BadRow(f"{where} {path!r} is not there")
        value = value[key]
    return value


def optional(value: Any, path: str) -> Any:
    """The value at a dotted path, or None."""
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
