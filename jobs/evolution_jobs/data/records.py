"""Records of a file of any kind, one at a time, each with its place for messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from .json_text import Fault, JsonReader, NotJson, kind
from .opening import PARQUET, DataFile, not_utf8
from .record import Record
from .tables import delimited_records, is_delimited, parquet_records, with_turns

JSON_LIMIT = 1 << 30
"""Bytes of a JSON document, which is read as a whole; JSON Lines may be of any length."""


def read_records(
    path: Path, name: str, root: str | None = None, turns: str = "messages", title: str | None = None
) -> Iterator[Record]:
    """Records of a JSON list, JSON Lines, CSV, TSV or Parquet; what the file holds tells which. Each may be gzipped.

    All but a JSON list are streamed. A record that cannot be read becomes a Record with an error if the next one can be.

    Args:
        path: the file.
        name: what messages call the file.
        root: the dotted path from a JSON object to its list of records; None if the file is that list, or JSON Lines.
        turns: the key of a record that holds its turns, or of an instruction; a table must have it as a column.
        title: the file's own name, if `path` is a download under another one.

    Raises PermanentError (`DataMalformed`, `DataUnreadable`) if the file as a whole cannot be read: JSON that is broken,
    cut off or larger than `JSON_LIMIT`, an unknown kind of file, or no list at `root`.
    """
    file = DataFile(path, name, title)
    json = JsonReader()
    if file.head.startswith(PARQUET):
        return (with_turns(record, turns, json) for record in parquet_records(file))
    if root is not None or _first(file) == "[":
        return _document_records(file, json, root)
    if is_delimited(file, turns):
        return (with_turns(record, turns, json) for record in delimited_records(file, turns))
    return _line_records(file, json, turns)


def _first(file: DataFile) -> str:
    return file.head.decode(file.encoding or "utf-8", "replace").removeprefix("\ufeff").lstrip()[:1]


def _line_records(file: DataFile, json: JsonReader, turns: str) -> Iterator[Record]:
    offset = 0
    found: Record | None = None
    first_place = ""
    for number, line in enumerate(file.lines(), start=1):
        if line.strip():
            if found:
                yield found
            first_place = first_place or f"line {number}"
            found = _line_record(file, json, turns, number, line, offset, first=found is None)
        offset += len(line)
    if found:
        # A file of one object may be the object around the records.
        alone = first_place == found.place and isinstance(found.value, dict) and turns not in found.value
        if alone and (around := _around_records(found.value)):
            file.refuse(around)
        yield found


def _line_record(
    file: DataFile, json: JsonReader, turns: str, number: int, line: bytes, offset: int, first: bool
) -> Record:
    place = f"line {number}"
    try:
        value = json.read(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Record(place, error=not_utf8(line, error.start, offset))
    except NotJson as error:
        whole = line.endswith((b"\n", b"\r"))
        if error.cut and not whole:
            return Record(place, error="the file ends inside this record: it was cut off")
        if error.cut and (line.strip() in (b"{", b"[") or (first and line.rstrip().endswith((b"{", b"[", b",", b":")))):
            _refuse_spread(file, json, turns, number)
        return Record(place, error=f"not JSON: {error} (column {error.column})")
    fault = json.fault(value)
    return Record(place, error=f"not JSON: {fault}") if fault else Record(place, value)


def _refuse_spread(file: DataFile, json: JsonReader, turns: str, number: int) -> NoReturn:
    """Refuse a file whose objects span several lines: one object around all records, or one after the other."""
    try:
        value = json.read(file.text(JSON_LIMIT))
    except NotJson:
        value = None
    if isinstance(value, dict):
        if turns in value:
            file.refuse("one JSON object over several lines: put [ and ] around it, or write it on one line")
        if around := _around_records(value):
            file.refuse(around)
    file.refuse(
        f"line {number}: a JSON object that spans several lines: write one object a line (jq -c . FILE) or one JSON list"
    )


def _around_records(value: dict[str, Any]) -> str | None:
    """What is wrong with an object that holds all records, or None if it looks like a record itself."""
    lists = [key for key, inner in value.items() if _is_list_of_objects(inner)]
    inside = [key for key in lists if any(_is_list_of_objects(deeper) for deeper in value[key][0].values())]
    if inside:
        hint = f"name the list inside it by mapping.records, for example records: {inside[0][:80]}, or save that list alone"
    elif len(value) > 1 and all(isinstance(inner, dict) for inner in value.values()):
        hint = "make it a list (jq '[.[]]' FILE), or name a list inside it by mapping.records"
    else:
        return None
    return f"one JSON object where a list of records is wanted, with the keys {', '.join(value)[:80]}: {hint}"


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _document_records(file: DataFile, json: JsonReader, root: str | None) -> Iterator[Record]:
    value = _document(file, json)
    for key in root.split(".") if root else ():
        if not isinstance(value, dict) or key not in value:
            file.refuse(f"mapping.records {root!r}: the file has no {key!r} there")
        value = value[key]
        _refuse_fault(file, value)
    if not isinstance(value, list):
        file.refuse(f"mapping.records {root!r} leads to {kind(value)}, not to a list")
    # pop frees each record once it is read, so a large list and its dialogues are never in memory together.
    value.reverse()
    for number in range(1, len(value) + 1):
        record = value.pop()
        fault = json.fault(record)
        yield Record(f"record {number}", error=f"not JSON: {fault}") if fault else Record(f"record {number}", record)


def _document(file: DataFile, json: JsonReader) -> Any:
    try:
        value = json.read(file.text(JSON_LIMIT))
    except NotJson as error:
        if error.cut:
            file.refuse(f"line {error.line}: the file ends inside the JSON document: it was cut off")
        file.refuse(f"line {error.line}, column {error.column}: not JSON: {error}")
    _refuse_fault(file, value)
    return value


def _refuse_fault(file: DataFile, value: Any) -> None:
    if isinstance(value, Fault):
        file.refuse(f"not JSON: {value.reason}")
