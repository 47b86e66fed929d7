"""The crisis test set that comes with this package: contexts.jsonl, under CC0 (README.md beside it)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from ..contract.jsonl import rows_by_id
from ..contract.rows import CrisisContext

FILE = "contexts.jsonl"


@cache
def crisis_contexts() -> tuple[CrisisContext, ...]:
    """Every dialogue of the test set, in the order of the file."""
    with (files(__package__) / FILE).open("rb") as file:
        return tuple(rows_by_id(file, CrisisContext).values())
