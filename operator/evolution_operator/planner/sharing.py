"""Which stages the arms of an experiment share: stages with equal keys, which one of them computes for all."""

from __future__ import annotations

from collections.abc import Mapping

from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.stage import Node

from .graph import build_graph
from .observed import Run


def keys_before_prepare(graph: list[Node], contents: Mapping[str, str] | None) -> dict[str, str]:
    """Keys to compare with those of other runs, even if prepare has not run: equal ones will be equal.

    Without `contents`, all but prepare's are stand-ins: prepare's key stands for what it will find.
    """
    if contents is None:
        prepare = resolve_keys(graph, None)["prepare"]
        sources = {source for node in graph for source in node.inputs.values()}
        contents = {
            name.removeprefix("prepare/"): f"{prepare}/{name}" for name in sources if name.startswith("prepare/")
        }
    return resolve_keys(graph, contents)


def prepare_key(run: Run) -> dict[str, str]:
    """The key of the run's prepare alone, by stage id. Runs with one key read the same data and model."""
    keys = resolve_keys(build_graph(run.spec, dict(run.pins)), None)
    return {"prepare": keys["prepare"]}


def shared_with(keys: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """By arm and stage: the first of the earlier arms that has a stage with this key. `keys` are each arm's, by stage.

    After the runs, only keys of stages that succeeded belong in `keys`.
    """
    first: dict[str, str] = {}
    found: dict[str, dict[str, str]] = {}
    for arm, stages in keys.items():
        found[arm] = {stage: first[key] for stage, key in stages.items() if key in first}
        for key in stages.values():
            first.setdefault(key, arm)
    return found
