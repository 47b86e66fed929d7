"""A folder of part files, as Spark and other writers leave it: read as one source, in the order of the names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from .record import Record
from .records import read_records

_NO_DATA_SUFFIXES = (".crc", ".md", ".ini", ".db")
_NO_DATA_NAMES = (
    "license",
    "readme",
    "readme.txt",
    "license.txt",
    "dataset_info.json",
    "dataset_infos.json",
    "state.json",
)


def part_names(names: Iterable[str]) -> list[str]:
    """The files with data among those of a folder, sorted. Hidden files and folders, `_SUCCESS` and the like have none."""
    return sorted(name for name in names if _is_part(PurePosixPath(name)))


def _is_part(path: PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return not hidden and path.suffix.lower() not in _NO_DATA_SUFFIXES and path.name.lower() not in _NO_DATA_NAMES


def folder_records(parts: Iterable[tuple[str, Path]], where: str, root: str | None, turns: str) -> Iterator[Record]:
    """Records of all parts, each given as name and path. A record's place begins with its part's name."""
    for name, path in parts:
        for record in read_records(path, f"{where}{name}", root, turns, name):
            yield replace(record, place=f"{name} {record.place}")
