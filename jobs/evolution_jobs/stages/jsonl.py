"""JSON Lines that one stage writes and another reads: one row a line, each with its own id."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from ..contract.document import Document
from ..contract.errors import PermanentError
from ..contract.jsonl import RowFault, rows_by_id
from ..contract.rows import Answer, Context, Dialogue, Instruction, Pair, Probe, Response, SafetyReply
from ..contract.workspace import Workspace

Row = TypeVar("Row", Dialogue, Instruction, Context, Response, Pair, Probe, Answer, SafetyReply)


def read_rows(workspace: Workspace, name: str, kind: type[Row], stem: str | None = None) -> dict[str, Row]:
    """The rows of an input's only file, `<name>.jsonl` or `<stem>.jsonl`, by id and in the file's order.

    Raises PermanentError (`RowsMalformed`), which names the input and the line, if the file cannot be read, a row is not
    of this kind, or an id occurs twice.
    """
    path = workspace.input(name) / f"{stem or name}.jsonl"
    try:
        with path.open("rb") as file:
            return rows_by_id(file, kind)
    except OSError as error:
        raise PermanentError("RowsMalformed", f"input {name}: {path.name} cannot be read: {error.strerror}") from error
    except RowFault as fault:
        raise PermanentError("RowsMalformed", f"input {name}, line {fault.line}: {fault}") from fault


def write_rows(path: Path, rows: Iterable[Document]) -> int:
    """Write rows as JSON Lines in UTF-8; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(row.model_dump_json(by_alias=True, exclude_none=True) + "\n")
            count += 1
    return count
