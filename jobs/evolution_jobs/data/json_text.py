"""JSON, stricter than Python's: no key twice, no NaN, no number that overflows; and what is wrong with almost JSON. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

DIGITS = 4000
"""Longest number in characters. Python refuses to read integers of more than 4300 digits."""


class Fault:
    """Stands for a value that JSON does not have, so that the values around it can still be read."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class NotJson(ValueError):
    """A text is not JSON. `str(error)` says why in words, without the place."""

    def __init__(self, reason: str, line: int, column: int, cut: bool = False) -> None:
        super().__init__(reason)
        self.line = line
        self.column = column
        self.cut = cut
        """The text ends too early."""


class JsonReader:
    """Reads JSON values. A key that occurs twice and a number that JSON does not have become a `Fault` inside the value.

    Reading them as Python does would lose what the first key held, or teach with values nobody wrote.
    """

    def __init__(self) -> None:
        self._faults = 0
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_int=self._whole, parse_float=self._real
        )

    def read(self, text: str) -> Any:
        """The value of a text. Raises NotJson."""
        self._faults = 0
        try:
            return self._decoder.decode(text)
        except json.JSONDecodeError as error:
            raise _explained(error) from None
        except RecursionError:
            raise NotJson("nested too deeply", 1, 1) from None

    def fault(self, value: Any) -> str | None:
        """The first fault in a value of the text that was read last, or None."""
        return next(_faults(value), None) if self._faults else None

    def _bad(self, reason: str) -> Fault:
        self._faults += 1
        return Fault(reason)

    def _object(self, pairs: list[tuple[str, Any]]) -> Any:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        return self._bad(f"the key {twice[:80]!r} occurs twice in one object: which of the two counts? Remove one")

    def _constant(self, name: str) -> Any:
        return self._bad(f"{name} is not a JSON value: write null or a number")

    def _whole(self, digits: str) -> Any:
        if len(digits) > DIGITS:
            return self._bad(f"a number of {len(digits)} digits is too long: write it as text, in quotes")
        return int(digits)

    def _real(self, digits: str) -> Any:
        number = float(digits) if len(digits) <= DIGITS else math.inf
        return number if math.isfinite(number) else self._bad(f"the number {digits[:20]} is too large")


def kind(value: Any) -> str:
    """A JSON value's kind in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _faults(value: Any) -> Iterator[str]:
    if isinstance(value, Fault):
        yield value.reason
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _faults(inner)


_AT_FAULT = (
    (r"//|/\*|#", "a comment, which JSON does not have: remove it"),
    (r"'", "single quotes, as Python prints: JSON has double quotes; write the file with json.dumps"),
    (
        r"(?:True|False|None)\b",
        "{found} is Python's word: JSON has true, false and null; write the file with json.dumps",
    ),
    (r"(?:NaN|nan|[-+]?[Ii]nf(?:inity)?|undefined)\b", "{found} is not a JSON value: write null or a number"),
    (r"[\u2018-\u201f\u00ab\u00bb]", 'a typographic quote {found} where a plain " belongs'),
    (r"\ufeff", "a byte order mark inside the file, as if files were joined: remove it"),
    (r"\x00", "a NUL byte: the file is damaged, or in UTF-16 without a byte order mark; save it as UTF-8"),
    (
        r"\+?\.?0\d|\+\d|\.\d",
        "a number that JSON does not have ({found}...): leading zeros, plus signs and bare points",
    ),
)
"""What stands where JSON cannot go on, with what that means."""


def _explained(error: json.JSONDecodeError) -> NotJson:
    text, at = error.doc, error.pos
    cut = not text[at:].strip() or error.msg.startswith("Unterminated string")
    return NotJson(_reason(error, text, at), error.lineno, error.colno, cut)


def _reason(error: json.JSONDecodeError, text: str, at: int) -> str:
    """What is wrong, in words. Python's parser stops where it cannot go on, which is often behind the fault."""
    before, rest = text[:at].rstrip(), text[at:]
    behind_text = before.endswith('"') and error.msg.startswith("Expecting ',' delimiter")
    if behind_text and re.match(r"[^\s\"{\[/#,:]", rest):
        return 'an unescaped quote inside a text: write \\" there'
    for pattern, words in _AT_FAULT:
        if (found := re.match(pattern, rest)) and not error.msg.startswith(("Invalid", "Unterminated")):
            return words.replace("{found}", found[0])
    if error.msg.startswith("Illegal trailing comma") or (before.endswith(",") and rest[:1] in ("}", "]")):
        closed = "object's" if rest[:1] == "}" or "object" in error.msg else "list's"
        return f"a comma too many before the {closed} end"
    if error.msg.startswith("Unterminated string"):
        return "a text without its closing quote"
    if error.msg.startswith("Invalid control character"):
        return _CONTROL.get(rest[:1], "a control character inside a text: remove it")
    if error.msg.startswith("Invalid \\u"):
        return "\\u without four hexadecimal digits behind it"
    if error.msg.startswith("Invalid \\"):
        return "a backslash inside a text that escapes nothing: write \\\\"
    if error.msg.startswith("Extra data"):
        return _extra(text[:at], rest)
    if not rest.strip():
        return "it ends too early"
    if error.msg.startswith("Expecting ',' delimiter"):
        return "a comma is missing" + (', or a quote inside a text is not escaped (\\")' if rest[:1] == '"' else "")
    if error.msg.startswith("Expecting ':' delimiter"):
        return 'a colon is missing behind a key, or a quote inside a text is not escaped (\\")'
    if rest[:1] in (",", "}", "]", ":"):
        return f"something is missing before {rest[0]!r}"
    if error.msg.startswith(("Expecting property name", "Illegal")):
        return f'a key without double quotes ({rest[:1]!r}), or a quote inside a text is not escaped (\\")'
    return f"no value that JSON has begins with {rest[:1]!r}"


_CONTROL = {
    "\t": "a tab inside a text: write \\t",
    "\n": "a line break inside a text: write \\n",
    "\r": "a line break inside a text: write \\n",
    "\0": "a NUL byte inside a text: the file is damaged; write it again",
}


def _extra(before: str, rest: str) -> str:
    if rest[:1] in "{[":
        two = "a second value behind the first" if "\n" in before else "two values on one line"
        return f"{two}: write each on a line of its own, or all as one list"
    if rest[:1] == ",":
        return "a comma behind the value: one JSON object a line has none"
    return f"something behind the value ({rest[:10]!r}): remove it"
