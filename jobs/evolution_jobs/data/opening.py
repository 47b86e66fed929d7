"""Opens data files as Windows, spreadsheets and data lakes write them: gzip, byte order marks, UTF-16, any line end."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from ..contract.errors import PermanentError

HEAD = 1 << 16
"""Bytes at the start of a file that tell what it is."""
LINE_LIMIT = 128 << 20
"""Longest line in bytes: a whole line is in memory. A conversation of a million words has about 6 MB."""
UNPACKED_LIMIT = 4 << 30
UNPACKED_RATIO = 100
"""A gzip file may unpack to `UNPACKED_LIMIT` bytes, or to this many times its own size. Text shrinks to a tenth."""

PARQUET = b"PAR1"
_GZIP = b"\x1f\x8b"
_OTHER_FILES: tuple[tuple[bytes, str], ...] = (
    (
        rb"PK\x03\x04(?s:.*)(?:xl/|mimetypeapplication/vnd\.oasis\.opendocument\.spreadsheet)",
        "a spreadsheet (Excel, LibreOffice): save it as CSV in UTF-8",
    ),
    (rb"PK\x03\x04(?s:.*)word/", "a Word document: save the data as JSON Lines or CSV"),
    (rb"PK\x03\x04", "a zip archive: unpack it"),
    (rb"\xd0\xcf\x11\xe0", "an old Excel or Word file: save it as CSV in UTF-8"),
    (rb"\x1f\x8b", "packed by gzip twice: unpack it once"),
    (rb"BZh[1-9]", "packed by bzip2: unpack it, or pack it with gzip"),
    (rb"\xfd7zXZ\x00", "packed by xz: unpack it, or pack it with gzip"),
    (rb"\x28\xb5\x2f\xfd", "packed by Zstandard (zst): unpack it, or pack it with gzip"),
    (rb"\x04\x22\x4d\x18", "packed by lz4: unpack it, or pack it with gzip"),
    (rb"\xff\x06\x00\x00sNaPpY", "packed by Snappy: unpack it, or pack it with gzip"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (rb"Rar!\x1a", "a rar archive: unpack it"),
    (rb"(?s:.{257})ustar", "a tar archive: unpack it, and name the file or the folder in it"),
    (rb"ARROW1|\xff\xff\xff\xff[^\xff]", "an Arrow file: write it as Parquet or JSON Lines (to_parquet, to_json)"),
    (rb"ORC[^\x20-\x7e]", "an ORC file: write it as Parquet or JSON Lines"),
    (rb"Obj\x01", "an Avro file: write it as Parquet or JSON Lines"),
    (rb"SQLite format 3\x00", "an SQLite database: write its rows as JSON Lines"),
    (
        rb"\x80[\x02-\x05][^\x00-\x08]?",
        "a Python pickle, which is never read because it can run code: write it as JSON Lines",
    ),
    (rb"\x89HDF", "an HDF5 file: write it as Parquet or JSON Lines"),
    (rb"%PDF", "a PDF"),
    (rb"(?i:\s*<(?:!doctype html|html))", "a web page, as a download gives it that needed a login or another link"),
    (rb"\s*<\?xml", "XML: write it as JSON Lines. A bucket's error page looks so, too"),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself: fetch it with git lfs pull"),
)
"""First bytes of files in which data sets are shipped and which are not read, with what they are and what to do."""


class DataFile:
    """One file of a source, unpacked and in UTF-8 while it is read."""

    def __init__(self, path: Path, name: str, title: str | None = None) -> None:
        """`name` is what messages call the file. `title` is its own name, if `path` is a download under another one."""
        self.path = path
        self.name = name
        self.suffix = Path((title or path.name).lower().removesuffix(".gz")).suffix
        with path.open("rb") as file:
            self.packed = file.read(len(_GZIP)) == _GZIP
        with self.open() as stream:
            self.head = stream.read(HEAD)
        for magic, kind in _OTHER_FILES:
            if re.match(magic, self.head):
                self.refuse(f"is {kind}")
        self.encoding = _encoding(self.head)

    def refuse(self, message: str) -> NoReturn:
        """Raise PermanentError `DataMalformed`, with the file's name."""
        raise PermanentError("DataMalformed", f"{self.name}: {message}")

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The unpacked bytes. Raises PermanentError if the file is a damaged or far too small gzip file."""
        with self.path.open("rb") as file:
            if not self.packed:
                yield file
                return
            limit = max(UNPACKED_LIMIT, UNPACKED_RATIO * self.path.stat().st_size)
            try:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield cast(BinaryIO, io.BufferedReader(_Bounded(unpacked, limit), 1 << 20))
            except EOFError:
                self.refuse("the gzip file was cut off: copy it again")
            except (gzip.BadGzipFile, zlib.error):
                self.refuse("the gzip file is damaged: copy it again")
            except _TooLargeError:
                self.refuse(f"unpacks to more than {limit >> 20} MiB: unpack it, if it is what you expect")

    def lines(self) -> Iterator[bytes]:
        """Lines in UTF-8 with their ends: line feed, carriage return or both, and nothing else that Unicode calls one.

        What is not UTF-8 is passed on as it is. Raises PermanentError if UTF-16 is damaged or a line is too long.
        """
        # In latin-1 each character is one byte, so that io's fast search for line ends works on bytes.
        encoding = self.encoding or "latin-1"
        with self.open() as stream, io.TextIOWrapper(stream, encoding, newline="") as text:
            number = 0
            try:
                while line := text.readline(LINE_LIMIT):
                    number += 1
                    if len(line) == LINE_LIMIT:
                        self.refuse(f"line {number} has more than {LINE_LIMIT >> 20} MiB: is this JSON Lines or CSV?")
                    data = line.encode("latin-1" if encoding == "latin-1" else "utf-8")
                    yield data.removeprefix(codecs.BOM_UTF8)
            except UnicodeError:
                self.refuse(f"line {number + 1}: not {encoding.upper()}, as its first bytes promise: save it as UTF-8")

    def text(self, limit: int) -> str:
        """The whole file, of at most `limit` unpacked bytes. Raises PermanentError."""
        with self.open() as stream:
            data = stream.read(limit + 1)
        if len(data) > limit:
            hint = "convert it to JSON Lines, for example with jq -c '.[]'"
            self.refuse(f"is a JSON document of more than {limit >> 20} MiB: {hint}")
        start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
        try:
            return str(memoryview(data)[start:], self.encoding or "utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            if self.encoding:
                self.refuse(f"not {self.encoding.upper()}, as its first bytes promise: save it as UTF-8")
            line = data.count(b"\n", 0, start + error.start) + 1
            self.refuse(f"line {line}: {not_utf8(data, start + error.start)}")


def not_utf8(data: bytes, at: int, offset: int | None = 0) -> str:
    """The message for the byte at `at`, the first that is not UTF-8; `offset` is where `data` begins in the file, if known."""
    single = not any(byte > 127 for byte in data[at - 1 : at] + data[at + 1 : at + 2])
    shown = data[at : at + 1].decode("cp1252", "replace")
    if single and shown != "\ufffd":
        why = f"0x{data[at]:02x}, which is {shown!r} in Windows-1252 (as Excel and Notepad save)"
        how = "save the file as UTF-8, or convert it: iconv -f WINDOWS-1252 -t UTF-8"
    else:
        why, how = f"0x{data[at]:02x}", "save the file as UTF-8, or convert it with iconv from the encoding that it has"
    place = f" at byte {offset + at}" if offset is not None else ""
    return f"not UTF-8{place}: {why}: {how}"


def _encoding(head: bytes) -> str | None:
    """The encoding of a text that is not UTF-8, by its byte order mark, or by the NULs beside JSON's first character."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    found = json.detect_encoding(head[:4]) if head.strip(b"\0") else "utf-8"
    return None if found.startswith("utf-8") else found


class _TooLargeError(Exception):
    pass


class _Bounded(io.RawIOBase):
    """Raises `_TooLargeError` once more than `limit` bytes were read, so that a gzip bomb ends."""

    def __init__(self, stream: gzip.GzipFile, limit: int) -> None:
        self._stream = stream
        self._left = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read1(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise _TooLargeError
        buffer[: len(data)] = data
        return len(data)
