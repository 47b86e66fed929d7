"""Summary of a finished run: one JSON document, from which the closing page is printed, too."""

from __future__ import annotations

from typing import Any

from evolution_jobs.contract.names import artifacts

from ..api.status import RunStatus, StageStatus
from ..planner.observed import Run
from .results import Results

SHOWN_OUTPUTS = {"sft": "adapter", "dpo": "adapter", "reflect": "pairs", "evaluate": "answers", "judge": "verdicts"}
"""Outputs that the summary lists, by stage kind."""


def summarise(run: Run, status: RunStatus, results: Results, wall_seconds: float) -> dict[str, Any]:
    """Phase, stages, artifact URIs and figures. `overheadSeconds` is wall time beyond the stages' own compute."""
    # Overhead is what the driver adds to stages computed in this call. Cached stages cost this call nothing.
    compute = sum(stage.seconds or 0 for stage in status.stages if stage.state == "Succeeded" and not stage.cached)
    return {
        "run": {"namespace": run.ref.namespace, "name": run.ref.name},
        "phase": status.phase,
        "message": status.condition("Failed"),
        "stoppedEarly": status.condition("StoppedEarly"),
        "seconds": round(wall_seconds, 1),
        "stageSeconds": round(compute, 1),
        "overheadSeconds": round(max(0.0, wall_seconds - compute), 1),
        "stages": [_stage(stage, results) for stage in status.stages],
        "artifacts": _artifacts(run, results),
        "metrics": [{"iteration": entry.iteration, **entry.figures} for entry in status.metrics],
        "intervals": [{"iteration": entry.iteration, **entry.intervals} for entry in status.metrics],
        "champion": status.champion,
        "championMetric": run.spec.evaluation.champion_metric,
        "championRule": run.spec.evaluation.champion_rule,
        "ineligible": list(status.ineligible),
    }


def _stage(stage: StageStatus, results: Results) -> dict[str, Any]:
    manifest, fault = results.manifests.get(stage.id), results.faults.get(stage.id)
    return {
        "id": stage.id,
        "state": stage.state,
        "cached": stage.cached,
        "seconds": round(stage.seconds, 1) if stage.seconds is not None else None,
        "attempts": stage.attempts,
        "key": stage.key,
        "manifest": stage.artifact,
        "counts": dict(manifest.counts) if manifest else {},
        "notes": [*(manifest.notes if manifest else []), *([fault] if fault else [])],
        "reason": stage.reason,
        "message": stage.message,
    }


def _artifacts(run: Run, results: Results) -> dict[str, str]:
    """`M0`, `M1`, ... and `pairs-1`, ... to the URI of their directory or file."""
    root = run.spec.storage.uri.rstrip("/")
    found = {}
    for manifest in results.manifests.values():
        for name, output in artifacts(manifest):
            files = manifest.outputs[output].files
            if files and output == SHOWN_OUTPUTS.get(manifest.kind):
                location = files[0].location
                found[name] = f"{root}/{location.rpartition('/')[0] if output == 'adapter' else location}"
    return found
