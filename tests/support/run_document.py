"""The smallest EvolutionRun, in the form of a run file. A test adds the fields that it tests."""

from __future__ import annotations

from typing import Any


def minimal_spec(
    *,
    model_uri: str = "hf://owner/model",
    storage_uri: str = "s3://bucket/runs",
    seed_uri: str = "hf://owner/esconv",
    **fields: Any,
) -> dict[str, Any]:
    """A new spec with the required fields. ``fields`` are added, or replace required ones as a whole."""
    return {
        "baseModel": {"uri": model_uri},
        "storage": {"uri": storage_uri},
        "data": {"seed": [{"uri": seed_uri, "format": "esconv"}]},
        **fields,
    }


def run_document(spec: dict[str, Any] | None = None, **metadata: str) -> dict[str, Any]:
    """A new EvolutionRun. Its spec is the minimal one unless given; its name is ``first`` unless ``metadata`` has one."""
    return {
        "apiVersion": "evolution.run/v1alpha1",
        "kind": "EvolutionRun",
        "metadata": {"name": "first", **metadata},
        "spec": minimal_spec() if spec is None else spec,
    }


def experiment_document(*variants: Any, base: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """A new Experiment. Its base is the minimal spec unless given; its name is ``exp`` unless ``metadata`` has one."""
    return {
        "apiVersion": "evolution.run/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "exp", **metadata},
        "spec": {"base": minimal_spec() if base is None else base, "variants": list(variants)},
    }
