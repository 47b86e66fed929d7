"""Rows of a JSON Lines file, each with an id of its own. Whoever opens the file says in a message which one it is. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, Self, TypeVar

from pydantic import ValidationError


class Identified(Protocol):
    """A `Document` with an id."""

    @property
    def id(self) -> str: ...

    @classmethod
    def stored(cls, value: bytes) -> Self: ...


Row = TypeVar("Row", bound=Identified)


class RowFault(ValueError):
    """A line that cannot be a row. `str(error)` says why."""

    def __init__(self, line: int, words: str, field: str = "", *, doubled: bool = False) -> None:
        super().__init__(f"{field}: {words}" if field else words)
        self.line = line
        """Counted from 1."""
        self.words = words
        self.field = field
        """The field at fault; empty if it is the line as a whole."""
        self.doubled = doubled
        """Whether an earlier line has the same id."""


def rows_by_id(lines: Iterable[bytes], kind: type[Row], called: str = "id") -> dict[str, Row]:
    """The rows by id, in their order. `called` is what messages call an id.

    Raises RowFault if a line is not of this kind, or an id occurs twice.
    """
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = kind.stored(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise RowFault(number, first["msg"], ".".join(map(str, first["loc"]))) from error
        if row.id in rows:
            raise RowFault(number, f"{called} {row.id!r} occurs twice", doubled=True)
        rows[row.id] = row
    return rows
