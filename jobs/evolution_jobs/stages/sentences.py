"""The sentence model of a run, `evaluation.sentenceModel`, for all parts of evaluate that embed texts."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..contract.workspace import Workspace

if TYPE_CHECKING:
    from ..engines.sentences import SentenceModel

INPUT = "sentence-model"
"""The input that has the sentence model."""


class Sentences:
    """Loads the model when the first part asks for it: once all rows are there."""

    def __init__(self, reference: Path | str) -> None:
        """A directory or a reference."""
        self._reference = reference

    @classmethod
    def of(cls, workspace: Workspace) -> Sentences | None:
        """None if the run has no sentence model."""
        if not workspace.has_input(INPUT):
            return None
        return cls(workspace.reference(INPUT) or workspace.input(INPUT))

    @cached_property
    def model(self) -> SentenceModel:
        """Raises what `SentenceModel.load` raises."""
        # torch and transformers take seconds to import, and the shards that only make rows do not need them.
        from ..engines.sentences import SentenceModel

        return SentenceModel.load(self._reference)
