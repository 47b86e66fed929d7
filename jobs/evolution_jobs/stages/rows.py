"""Rows of an input: JSON Lines that an earlier stage has written."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from ..contract.document import Document
from ..contract.errors import PermanentError
from .workspace import Workspace

Row = TypeVar("Row", bound=Document)


def read_rows(workspace: Workspace, name: str, kind: type[Row]) -> list[Row]:
    """The rows of the input's only file, `<name>.jsonl`.

    Raises PermanentError (`InputMalformed`) naming input and line where a row is not of that kind.
    """
    path = workspace.input(name) / f"{name}.jsonl"
    rows: list[Row] = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                rows.append(kind.stored(line))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise PermanentError(
            "InputMalformed", f"input {name}, line {len(rows) + 1}: {place}: {fault['msg']}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError("InputMalformed", f"input {name}: {path.name} cannot be read: {error}") from error
    return rows
