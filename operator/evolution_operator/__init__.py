"""The resource, the planner, and its two executors: the controller for a cluster, the local driver for one machine.

For notebooks and scripts (docs/python.md):

    from evolution_operator import EvolutionRun, run, apply, watch, open_run, figures, report

These names are imported when they are used, so the controller and the stages, which need none of them, start as fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evolution_jobs.contract.locations import BaseModelSource, Source, Storage

    from .api.spec import (
        Data,
        DpoStage,
        EvaluationStage,
        EvolutionRun,
        EvolutionRunSpec,
        GenerationStage,
        ReflectionStage,
        SftStage,
    )
    from .interactive.local import figures, load, open_run, plan, report, run, save
    from .interactive.remote import apply, watch
    from .interactive.run_results import RunResults

__all__ = [
    "BaseModelSource",
    "Data",
    "DpoStage",
    "EvaluationStage",
    "EvolutionRun",
    "EvolutionRunSpec",
    "GenerationStage",
    "ReflectionStage",
    "RunResults",
    "SftStage",
    "Source",
    "Storage",
    "apply",
    "figures",
    "load",
    "open_run",
    "plan",
    "report",
    "run",
    "save",
    "watch",
]

_MODULES = {
    **dict.fromkeys(("BaseModelSource", "Source", "Storage"), "evolution_jobs.contract.locations"),
    **dict.fromkeys(("figures", "load", "open_run", "plan", "report", "run", "save"), f"{__name__}.interactive.local"),
    **dict.fromkeys(("apply", "watch"), f"{__name__}.interactive.remote"),
    "RunResults": f"{__name__}.interactive.run_results",
}
"""Where each name is defined; all others are in the spec's module."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, f"{__name__}.api.spec")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
