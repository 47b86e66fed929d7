"""The model that a stage runs: the base model and the adapter among its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..contract.locations import Quantization
from ..contract.settings import SamplingSettings
from ..contract.workspace import Workspace
from ..models.marked import quantization_of

if TYPE_CHECKING:
    from ..engines.base import Engine


def base_model(workspace: Workspace) -> Path | str:
    """The directory of the input `model`, or its reference if the model was pinned and not copied."""
    return workspace.reference("model") or workspace.input("model")


def quantization(workspace: Workspace) -> Quantization | None:
    """How the base model is quantised as it is loaded: `baseModel.quantization`."""
    return quantization_of(workspace.input("model"))


def adapter(workspace: Workspace) -> Path | None:
    """The directory of the input `adapter`; None if the stage has no such input and runs the base model alone."""
    return workspace.input("adapter") if workspace.has_input("adapter") else None


def load_engine(workspace: Workspace, settings: SamplingSettings) -> Engine:
    """An engine over the base model and the adapter. Raises as `models.load` does."""
    # Takes seconds to import. A shard that only merges finished rows needs no engine.
    from ..engines.transformers_engine import TransformersEngine

    return TransformersEngine.load(
        base_model(workspace),
        adapter(workspace),
        settings.precision,
        settings.token_budget,
        quantization(workspace),
    )
