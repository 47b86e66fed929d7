"""The model that a stage runs: the base model and the adapter among its inputs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract.locations import Quantization
from ..contract.settings import SamplingSettings
from ..contract.stage import BLOCKS
from ..contract.workspace import Workspace
from ..models.marked import quantization_of

if TYPE_CHECKING:
    from ..engines.base import Engine

log = logging.getLogger(__name__)


def base_model(workspace: Workspace) -> Path | str:
    """The directory of the input `model`, or its reference if the model was pinned and not copied."""
    return workspace.reference("model") or workspace.input("model")


def quantization(workspace: Workspace) -> Quantization | None:
    """How the base model is quantised as it is loaded: `baseModel.quantization`."""
    return quantization_of(workspace.input("model"))


def adapter(workspace: Workspace) -> Path | None:
    """The directory of the input `adapter`; None if the stage has no such input and runs the base model alone."""
    return workspace.input("adapter") if workspace.has_input("adapter") else None


def load_engine(
    workspace: Workspace, settings: SamplingSettings, *, scores: bool = False, others: Sequence[SamplingSettings] = ()
) -> Engine:
    """An engine over the base model and the adapter; `scores` if it will be asked for likelihoods. Requests may be as long
    as `settings` or any of `others` allow. The stage's first step comes next.

    Raises as `models.load`, `VllmEngine.load` and `choose` do.
    """
    # These take seconds to import. A shard that only merges finished rows needs no engine.
    import torch

    from ..engines.choice import choose, vllm_installed

    block, quantised = BLOCKS[workspace.spec.kind], quantization(workspace)
    engine, why = choose(
        settings.engine, vllm_installed(), torch.cuda.is_available(), block, quantised=quantised is not None
    )
    log.info("%s: the engine is %s, because %s", workspace.spec.stage, engine, why)
    model = base_model(workspace), adapter(workspace)
    loaded: Engine
    if engine == "vllm":
        from ..engines.vllm_engine import VllmEngine

        workspace.imported()
        loaded = VllmEngine.load(*model, settings, block, scores=scores, others=others, check_stop=workspace.check_stop)
    else:
        from ..engines.transformers_engine import TransformersEngine

        workspace.imported()
        loaded = TransformersEngine.load(*model, settings.precision, settings.token_budget, quantised)
    workspace.loaded()
    return loaded


class SharedEngine:
    """An engine that several users share: loaded when one first needs it, and freed when no more is sampled."""

    def __init__(self, load: Callable[[], Engine]) -> None:
        self._load = load
        self._engine: Engine | None = None

    def __call__(self) -> Engine:
        """The engine. Raises what loading it raises."""
        if self._engine is None:
            self._engine = self._load()
        return self._engine

    def free(self) -> None:
        """Give its memory back, if it was loaded."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def engines_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """For a manifest's details: how many rows each engine made. Empty if no row names one."""
    made = Counter(row["engine"] for row in rows if "engine" in row)
    return {"engines": dict(made.most_common())} if made else {}


def mixed(engines: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A note for the user if several engines made one stage's rows."""
    made = engines.get("engines", {})
    if len(made) < 2:
        return []
    shares = ", ".join(f"{name} {count}" for name, count in made.items())
    return [f"several engines made its rows ({shares}), which sample different text from the same seeds"]
