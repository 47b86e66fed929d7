"""Records of a JSON or JSON Lines file, one at a time, each with its place for messages to people."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ..contract.errors import PermanentError

CHUNK = 1 << 20
PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PAR1": "Parquet",
}
"""How files begin that data sets come in and that are neither JSON nor JSON Lines."""
_SPACE = " \t\n\r"


@dataclass(frozen=True)
class Record:
    """One record, or why it cannot be read."""

    place: str
    """`line 12` of JSON Lines, `record 12` of a JSON list; both count from 1."""
    value: Any = None
    error: str | None = None


def read_records(path: Path, name: str, root: str | None = None) -> Iterator[Record]:
    """Records of a file in UTF-8: a JSON list, or JSON Lines; the first character tells which.

    `name` is what messages call the file. `root` is the dotted path from a JSON object to its list of records; such a file is read as a whole, all others are
    streamed. A line that cannot be read becomes a Record with an error, because the next one can be.

    Raises PermanentError (`DataMalformed`) with line or byte offset where nothing after the fault can be read: a JSON
    list that is broken, cut off or not UTF-8, a compressed file, or no list at `root`.
    """
    with path.open("rb") as file:
        head = file.read(CHUNK)
    if packed := next((kind for magic, kind in PACKED.items() if head.startswith(magic)), None):
        raise malformed(name, f"is {packed}, not JSON or JSON Lines: unpack or convert it first")
    if root is not None:
        return _records_below(path, name, root)
    if head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[":
        return _list_records(path, name)
    return _line_records(path)


def parse(text: str) -> Any:
    """Any JSON value. Raises ValueError with a reason of a few words; json alone raises RecursionError too."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _line_records(path: Path) -> Iterator[Record]:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if content.strip():
                yield _line_record(f"line {number}", content, offset + len(line) - len(content))
            offset += len(line)


def _line_record(place: str, line: bytes, offset: int) -> Record:
    try:
        return Record(place, parse(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        return Record(place, error=f"not UTF-8 at byte {offset + error.start}: save the file as UTF-8")
    except json.JSONDecodeError as error:
        if line.strip() == b"{":
            hint = "write one JSON object a line or one JSON list, or name the list inside an object by mapping.records"
            return Record(place, error=f"a JSON object that goes on over several lines: {hint}")
        if not line.endswith(b"\n") and _runs_out(error):
            return Record(place, error="the file ends inside this record: it was cut off")
        return Record(place, error=f"not JSON: {error.msg} at column {error.colno}")
    except ValueError as error:
        return Record(place, error=f"not JSON: {error}")


def _records_below(path: Path, name: str, root: str) -> Iterator[Record]:
    text = "".join(_decoded(path, name))
    try:
        value = parse(text)
    except json.JSONDecodeError as error:
        cause = "it was cut off" if _runs_out(error) else error.msg
        raise malformed(name, f"line {error.lineno}: not JSON: {cause}") from error
    except ValueError as error:
        raise malformed(name, f"not JSON: {error}") from error
    for key in root.split("."):
        if not isinstance(value, dict) or key not in value:
            raise malformed(name, f"mapping.records {root!r}: the file has no {key!r} there")
        value = value[key]
    if not isinstance(value, list):
        raise malformed(name, f"mapping.records {root!r} leads to {type(value).__name__}, not to a list")
    for number, item in enumerate(value, start=1):
        yield Record(f"record {number}", item)


def _list_records(path: Path, name: str) -> Iterator[Record]:
    text = _Window(path, name)
    text.expect("[", "a JSON list")
    number = 0
    if text.skip_space() != "]":
        while True:
            number += 1
            yield Record(f"record {number}", text.value(number))
            if text.skip_space() == "]":
                break
            text.expect(",", f"a comma after record {number}")
    text.expect("]", "the list's end")
    if text.skip_space():
        raise malformed(name, f"line {text.line}: something follows the end of the JSON list")


class _Window:
    """The part of a JSON text that is being read."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._chunks = _decoded(path, name)
        self._text = ""
        self._lines = 1
        self.at = 0

    @property
    def line(self) -> int:
        return self._line_at(self.at)

    def skip_space(self) -> str:
        """The next character that is no space, not yet read; empty at the end of the file."""
        while True:
            while self.at < len(self._text) and self._text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self._text):
                return self._text[self.at]
            if not self._extend():
                return ""

    def expect(self, character: str, what: str) -> None:
        found = self.skip_space()
        if not found:
            raise malformed(self.name, f"line {self.line}: the file ends before {what}: it was cut off")
        if found != character:
            raise malformed(self.name, f"line {self.line}: not JSON: expected {what}, found {found!r}")
        self.at += 1

    def value(self, number: int) -> Any:
        """The next JSON value. It is tried again with twice the text until it is complete."""
        self.skip_space()
        while True:
            try:
                value, end = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode(self._text, self.at)
            except json.JSONDecodeError as error:
                if self._extend():
                    continue
                where = f"line {self._line_at(error.pos)}"
                if _runs_out(error):
                    raise malformed(
                        self.name, f"{where}: the file ends inside record {number}: it was cut off"
                    ) from None
                raise malformed(self.name, f"{where}: record {number} is not JSON: {error.msg}") from None
            except (ValueError, RecursionError) as error:
                cause = "nested too deeply" if isinstance(error, RecursionError) else error
                raise malformed(self.name, f"line {self.line}: record {number} is not JSON: {cause}") from None
            # A number may go on in the next chunk; everything else has its own end.
            if end < len(self._text) or not self._extend():
                self.at = end
                return value

    def _line_at(self, position: int) -> int:
        return self._lines + self._text.count("\n", 0, position)

    def _extend(self) -> bool:
        rest = self._text[self.at :]
        more: list[str] = []
        while sum(map(len, more)) <= len(rest) and (chunk := next(self._chunks, None)) is not None:
            more.append(chunk)
        if not more:
            return False
        self._lines = self.line
        self._text, self.at = "".join(chain([rest], more)), 0
        return True


def _decoded(path: Path, name: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    offset = 0
    with path.open("rb") as file:
        # The empty chunk at the end makes the decoder say whether a character was cut off.
        for chunk in chain(iter(lambda: file.read(CHUNK), b""), [b""]):
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                start = offset + len(chunk) - len(error.object) + error.start
                raise malformed(name, f"not UTF-8 at byte {start}: save the file as UTF-8") from error
            offset += len(chunk)
            if text:
                yield text


def _runs_out(error: json.JSONDecodeError) -> bool:
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")


def malformed(name: str, message: str) -> PermanentError:
    """A file that cannot be read on from some point."""
    return PermanentError("DataMalformed", f"{name}: {message}")
