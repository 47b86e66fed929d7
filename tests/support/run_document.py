"""The smallest EvolutionRun, as a run file has it. A test adds what it is about."""

from __future__ import annotations

from typing import Any


def minimal_spec(
    *,
    model_uri: str = "hf://owner/model",
    storage_uri: str = "s3://bucket/runs",
    seed_uri: str = "hf://owner/esconv",
    **fields: Any,
) -> dict[str, Any]:
    """A new spec with what every spec must have. ``fields`` are added to it, or replace whole fields of it."""
    return {
        "baseModel": {"uri": model_uri},
        "storage": {"uri": storage_uri},
        "data": {"seed": [{"uri": seed_uri, "format": "esconv"}]},
        **fields,
    }


def run_document(spec: dict[str, Any] | None = None, **metadata: str) -> dict[str, Any]:
    """A new EvolutionRun, named ``first`` unless ``metadata`` has a name; its spec is the minimal one unless given."""
    return {
        "apiVersion": "evolution.run/v1alpha1",
        "kind": "EvolutionRun",
        "metadata": {"name": "first", **metadata},
        "spec": minimal_spec() if spec is None else spec,
    }
