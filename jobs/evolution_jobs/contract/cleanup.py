"""What the cleanup of a deleted run is told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .document import Document
from .settings import Storage
from .stage import RunRef


class CleanupSpec(Document):
    """A run whose artifacts are to go, but for what other runs share."""

    run: RunRef
    storage: Storage
    keys: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = []
    """Keys of the run's stages that are known to its owner, beside those in its record."""
