"""Rows of CSV, TSV and Parquet files as records: one object a row, with the header's names as keys."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from ..contract.errors import PermanentError
from .json_text import JsonReader, NotJson
from .opening import LINE_LIMIT, DataFile, not_utf8
from .record import Record

SUFFIXES = (".csv", ".tsv", ".tab")
INSTRUCTION = "instruction"
"""The column of a table of instructions. Its cells are text, whatever they look like."""
_DELIMITERS = ",;\t|"
_QUOTES = 'a quote inside a cell is not doubled: write "" for each'
BATCH = 256
"""Rows of Parquet in memory at once, beside one row group's pages."""


def is_delimited(file: DataFile, column: str) -> bool:
    """Whether a file is CSV or TSV: by its name, or by a header that has the column. JSON never looks so."""
    start = file.head.decode(file.encoding or "utf-8", "replace").removeprefix("\ufeff").lstrip()
    if start[:1] in ("{", "["):
        return False
    header = start.partition("\n")[0]
    return file.suffix in SUFFIXES or column in [name.strip(' "\r') for name in re.split(r"[,;\t|]", header)]


def delimited_records(file: DataFile, column: str) -> Iterator[Record]:
    """Rows of a CSV or TSV file with a header; its first line tells the delimiter, as Excel writes one by the language.

    Raises PermanentError `DataMalformed` if the header has not the column that the format needs.
    """
    lines = _Lines(file)
    # Dialogues are long cells; csv refuses more than 128 KiB unless told otherwise.
    csv.field_size_limit(LINE_LIMIT)
    first = next(lines, "")
    if named := re.match(r"sep=(.)\r?\n", first):
        delimiter, first = named[1], next(lines, "")
    else:
        bare = re.sub(r'"[^"]*"', "", first)
        delimiter = max(_DELIMITERS, key=bare.count)
    (names,) = csv.reader([first], delimiter=delimiter) if first.strip() else [[]]
    header = [name.strip() for name in names]
    _check_header(file, header, column)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start = lines.number + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if str(error).startswith(("unexpected end", "field larger")):
                # The rest of the file is in this cell: to skip it as one bad row would lose all that follows.
                file.refuse(f"line {start}: a quoted cell has no end: the file was cut off, or {_QUOTES}")
            yield Record(f"line {start}", error=_QUOTES)
            continue
        if any(cell.strip() for cell in row):
            yield _row(f"line {start}", header, row)


def parquet_records(file: DataFile) -> Iterator[Record]:
    """Rows of a Parquet file, a few at a time. Raises PermanentError `DataMalformed`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise PermanentError(
            "DataUnreadable",
            f"{file.name}: is Parquet, for which this installation lacks pyarrow: pip install pyarrow, or convert the "
            "file to JSON Lines",
        ) from None
    if file.packed:
        file.refuse("is Parquet packed by gzip: unpack it; Parquet packs its columns itself")
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file.path) as table:
            for batch in table.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(f"row {number}", row)
    except (pyarrow.ArrowException, OSError):
        behind = f" behind row {number}" if number else ""
        file.refuse(f"is Parquet that is damaged or was cut off{behind}: copy or write it again")
    except UnicodeDecodeError:
        file.refuse(f"row {number + 1}: holds text that is not UTF-8: write the file again")


def with_turns(record: Record, column: str, json: JsonReader) -> Record:
    """A table's record with its turns as a list, where a cell holds them as JSON text."""
    text = record.value.get(column) if isinstance(record.value, dict) and column != INSTRUCTION else None
    if not isinstance(text, str) or text.lstrip()[:1] not in ("[", "{"):
        return record
    try:
        value = json.read(text)
    except NotJson as error:
        return Record(record.place, error=f"column {column!r}, character {error.column}: not JSON: {error}")
    if fault := json.fault(value):
        return Record(record.place, error=f"column {column!r}: not JSON: {fault}")
    return Record(record.place, record.value | {column: value})


class _Lines:
    """Lines of a file as text, and how many were taken. Bytes that are not UTF-8 become lone surrogates."""

    def __init__(self, file: DataFile) -> None:
        self._lines = file.lines()
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        return line.decode("utf-8", "surrogateescape")


def _check_header(file: DataFile, header: list[str], column: str) -> None:
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        file.refuse(f"line 1: the column {twice[0][:80]!r} occurs twice")
    if header and column not in header:
        wanted = (
            "columns instruction, input and output"
            if column == INSTRUCTION
            else f"a row for each dialogue, with a column {column!r} that holds its turns as JSON text"
        )
        found = ", ".join(header)[:200]
        file.refuse(f"line 1: is a table, which needs {wanted}; found the columns {found}")


def _row(place: str, header: list[str], row: list[str]) -> Record:
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        data = ",".join(row).encode("utf-8", "surrogateescape")
        try:
            data.decode()
        except UnicodeDecodeError as error:
            return Record(place, error=not_utf8(data, error.start, None))
    if len(row) > len(header) and any(cell.strip() for cell in row[len(header) :]):
        return Record(place, error=f"{len(row)} cells, but the header has {len(header)}: quote cells with delimiters")
    if len(row) < len(header):
        return Record(place, error=f"only {len(row)} cells, but the header has {len(header)}")
    return Record(place, {name: cell for name, cell in zip(header, row, strict=False) if name})
