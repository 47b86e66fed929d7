"""The spec of the cleanup of a deleted run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .document import Document
from .locations import Storage
from .stage import RunRef


class CleanupSpec(Document):
    """A run whose artifacts are to be deleted, except what other runs share."""

    run: RunRef
    storage: Storage
    keys: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = []
    """Keys of the run's stages that the operator knows, beside those that the run has recorded."""
