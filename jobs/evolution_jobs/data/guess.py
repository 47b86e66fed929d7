"""What format a data file has, as far as its first records tell."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from ..contract.errors import PermanentError
from ..contract.locations import Source
from .readers import guess_source
from .records import read_records

RECORDS = 20
"""Records that are read."""
TURNS = ("messages", "conversations", "dialog", "content", "instruction", "dialogue", "turns")
"""Keys of the turns to try: a table must have one of them as a column."""


def guess(path: Path, uri: str) -> tuple[Source, bool] | None:
    """The source at `uri` that reads the file's first records, and whether it is sure who helps whom; None if none does.

    Raises PermanentError as `read_records` does, if the file cannot be read at all.
    """
    fault: PermanentError | None = None
    for turns in TURNS:
        try:
            records = list(islice(read_records(path, str(path), turns=turns), RECORDS))
        except PermanentError as error:
            fault = fault or error
            continue
        values = [record.value for record in records if not record.error]
        if values and (found := guess_source(values, uri)):
            return found
    if fault:
        raise fault
    return None
