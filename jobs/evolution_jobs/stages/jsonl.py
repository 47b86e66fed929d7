"""JSON Lines that one stage leaves and another reads: a row a line, each with an id of its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from ..contract.document import Document
from ..contract.errors import PermanentError
from ..contract.rows import Context, Response

Row = TypeVar("Row", Context, Response)


def read_rows(path: Path, kind: type[Row]) -> dict[str, Row]:
    """The rows of a file by id, in the file's order.

    Raises PermanentError (`RowsMalformed`) naming file and line where the file cannot be read, a row is not of that
    kind, or an id occurs twice.
    """
    rows: dict[str, Row] = {}
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                row = kind.stored(line)
                if row.id in rows:
                    raise PermanentError("RowsMalformed", f"{path.name}, line {number}: id {row.id} occurs twice")
                rows[row.id] = row
    except OSError as error:
        raise PermanentError("RowsMalformed", f"{path.name} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        fault = f"{place}: {first['msg']}" if place else first["msg"]
        raise PermanentError("RowsMalformed", f"{path.name}, line {number}: {fault}") from error
    return rows


def write_rows(path: Path, rows: Iterable[Document]) -> Path:
    """Write rows as JSON Lines in UTF-8; returns the path."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(row.model_dump_json(by_alias=True, exclude_none=True) + "\n" for row in rows)
    return path
