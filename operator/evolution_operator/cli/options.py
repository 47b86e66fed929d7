"""Options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Output(StrEnum):
    """How results are printed."""

    text = "text"
    json = "json"


StorageOption = Annotated[
    str | None, typer.Option("--storage", help="Storage URI or directory, in place of spec.storage.uri.")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text, or one JSON document.")]

INTERRUPTED = "Stopped; finished work is kept. Run the same command to continue."
"""What a command that runs stages says after Ctrl-C."""
