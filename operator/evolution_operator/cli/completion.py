"""Completion of names of runs on the cluster and of their stages.

A callback prints nothing and gives up soon: it runs at each press of the tab key.
"""

from __future__ import annotations

import re
from typing import Any

import typer

PATIENCE = 2.0
"""Seconds to wait for the API server."""
MOST = "500"
"""Most names that are asked for."""
NAME = re.compile(r"[a-z0-9][-a-z0-9.]*")
"""What a shell takes literally. zsh evaluates what it is given."""


def run_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the runs in the namespace that begin so."""
    return _matching([item["metadata"]["name"] for item in _items(context, "")], incomplete)


def stage_names(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of the stages of the run that was named before."""
    name = str(context.params.get("name") or "")
    stages = [stage for item in _items(context, name) for stage in (item.get("status") or {}).get("stages") or []]
    return _matching([stage["id"] for stage in stages], incomplete)


def _matching(names: list[Any], incomplete: str) -> list[str]:
    return [name for name in map(str, names) if name.startswith(incomplete) and NAME.fullmatch(name)]


def _items(context: typer.Context, name: str) -> list[dict[str, Any]]:
    """The runs in the namespace, or the one of this name; none if the cluster does not answer in time."""
    from evolution_jobs.contract.errors import StageError

    from ..api.spec import API_VERSION, PLURAL
    from .kube import ApiError, Cluster

    query = {"fieldSelector": f"metadata.name={name}"} if name else {"limit": MOST}
    try:
        cluster = Cluster(context.params.get("namespace"))
        path = f"/apis/{API_VERSION}/namespaces/{cluster.namespace}/{PLURAL}"
        return list(cluster.get(path, query, PATIENCE).get("items") or [])
    except (StageError, ApiError):
        return []
