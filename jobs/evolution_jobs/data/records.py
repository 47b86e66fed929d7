"""Records of a JSON or JSON Lines file, one at a time, each with its place for messages."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract.errors import PermanentError

JSON_LIMIT = 1 << 30
"""Bytes of a JSON document, which is read as a whole; JSON Lines may be of any length."""
PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PAR1": "Parquet",
}
"""First bytes of files in which data sets are often shipped, and which are neither JSON nor JSON Lines."""


@dataclass(frozen=True)
class Record:
    """One record, or the reason why it cannot be read."""

    place: str
    """`line 12` of JSON Lines, `record 12` of a JSON list; both count from 1."""
    value: Any = None
    error: str | None = None


def read_records(path: Path, name: str, root: str | None = None) -> Iterator[Record]:
    """Records of a file in UTF-8: a JSON list, or JSON Lines; the first character tells which.

    JSON Lines are streamed. A line that cannot be read becomes a Record with an error, because the next one can be.

    Args:
        path: the file.
        name: what messages call the file.
        root: the dotted path from a JSON object to its list of records; None if the file is that list, or JSON Lines.

    Raises PermanentError (`DataMalformed`) if no record can be read: JSON that is broken, cut off, not UTF-8 or larger
    than `JSON_LIMIT`, a compressed file, or no list at `root`.
    """
    with path.open("rb") as file:
        head = file.read(1 << 20)
    if packed := next((kind for magic, kind in PACKED.items() if head.startswith(magic)), None):
        raise _malformed(name, f"is {packed}, not JSON or JSON Lines: unpack or convert it first")
    if root is None and head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] != b"[":
        return _line_records(path)
    return _document_records(path, name, root)


def parse(text: str) -> Any:
    """Any JSON value. Raises ValueError with a short reason, also if the text is nested too deeply."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


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
            return Record(place, error=f"a JSON object that spans several lines: {hint}")
        if not line.endswith(b"\n") and _runs_out(error):
            return Record(place, error="the file ends inside this record: it was cut off")
        return Record(place, error=f"not JSON: {error.msg} at column {error.colno}")
    except ValueError as error:
        return Record(place, error=f"not JSON: {error}")


def _document_records(path: Path, name: str, root: str | None) -> Iterator[Record]:
    value = _document(path, name)
    for key in root.split(".") if root else ():
        if not isinstance(value, dict) or key not in value:
            raise _malformed(name, f"mapping.records {root!r}: the file has no {key!r} there")
        value = value[key]
    if not isinstance(value, list):
        raise _malformed(name, f"mapping.records {root!r} leads to {type(value).__name__}, not to a list")
    # pop frees each record once it is read, so a large list and its dialogues are never in memory together.
    value.reverse()
    for number in range(1, len(value) + 1):
        yield Record(f"record {number}", value.pop())


def _document(path: Path, name: str) -> Any:
    if path.stat().st_size > JSON_LIMIT:
        hint = "convert it to JSON Lines, for example with jq -c '.[]'"
        raise _malformed(name, f"is a JSON document of more than {JSON_LIMIT >> 20} MiB: {hint}")
    data = path.read_bytes()
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        text = str(memoryview(data)[start:], "utf-8")
    except UnicodeDecodeError as error:
        raise _malformed(name, f"not UTF-8 at byte {start + error.start}: save the file as UTF-8") from error
    # Parsing needs several times the text's size; the bytes must not stay in memory meanwhile.
    del data
    try:
        return parse(text)
    except json.JSONDecodeError as error:
        if _runs_out(error):
            raise _malformed(
                name, f"line {error.lineno}: the file ends inside the JSON document: it was cut off"
            ) from error
        raise _malformed(name, f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from error
    except ValueError as error:
        raise _malformed(name, f"not JSON: {error}") from error


def _runs_out(error: json.JSONDecodeError) -> bool:
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")


def _malformed(name: str, message: str) -> PermanentError:
    return PermanentError("DataMalformed", f"{name}: {message}")
