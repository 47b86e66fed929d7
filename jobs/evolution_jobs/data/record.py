"""One record of a data source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """One record, or the reason why it cannot be read."""

    place: str
    """`line 12` of JSON Lines or CSV, `record 12` of a JSON list, `row 12` of Parquet or the hub; all count from 1."""
    value: Any = None
    error: str | None = None
