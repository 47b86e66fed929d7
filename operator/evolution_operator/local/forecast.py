"""`evolution plan`: which stages would run, their keys and inputs. Reads the store and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.stage import Node
from evolution_jobs.store.open import open_store
from rich.console import Console
from rich.table import Table

from ..planner.graph import build_graph
from ..planner.observed import Run
from ..planner.sharing import keys_before_prepare, shared_with
from .lookup import Finished, look_up

UNKNOWN = "not known until prepare has run"


def forecast(run: Run) -> list[dict[str, Any]]:
    """One row a stage: id, key or None, state (`cached`, `to run`, `not known until prepare has run`), inputs, faults."""
    return _rows(*_seen(run))


def forecast_arms(runs: Mapping[str, Run]) -> dict[str, list[dict[str, Any]]]:
    """By variant, the rows of `forecast`. `sharedWith` is the earlier variant that has the same stage, or None."""
    seen = {variant: _seen(run) for variant, run in runs.items()}
    keys = {variant: keys_before_prepare(graph, finished.contents) for variant, (graph, finished, _) in seen.items()}
    shared = shared_with(keys)
    return {
        variant: [row | {"sharedWith": shared[variant].get(row["stage"])} for row in _rows(*found)]
        for variant, found in seen.items()
    }


def _seen(run: Run) -> tuple[list[Node], Finished, list[str]]:
    """The run's graph, its finished stages, and what is wrong with some."""
    graph = build_graph(run.spec, dict(run.pins))
    faults: list[str] = []
    return graph, look_up(open_store(run.spec.storage), graph, faults.append, withdraw=False), faults


def _rows(graph: list[Node], finished: Finished, faults: list[str]) -> list[dict[str, Any]]:
    keys = resolve_keys(graph, finished.contents)
    rows = []
    for node in graph:
        key = keys.get(node.id)
        inputs = {}
        for name, source in node.inputs.items():
            stage, _, output = source.partition("/")
            digest = (finished.contents or {}).get(output) if stage == "prepare" else keys.get(stage)
            inputs[name] = f"{source}@{digest[:12]}" if digest else source
        state = UNKNOWN if key is None else "cached" if key in finished.manifests else "to run"
        rows.append(
            {
                "stage": node.id,
                "key": key,
                "state": state,
                "inputs": inputs,
                "faults": [fault for fault in faults if fault.startswith(f"stage {node.id}:")],
            }
        )
    return rows


def print_forecast(console: Console, rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table, with totals and faults below it."""
    table = Table()
    for column in ("stage", "state", "key", "inputs"):
        table.add_column(column, overflow="fold")
    for row in rows:
        state = "cached" if row["state"] == "cached" else "to run"
        inputs = "\n".join(f"{name}: {source}" for name, source in row["inputs"].items())
        table.add_row(row["stage"], state if row["key"] else "?", (row["key"] or "?")[:12], inputs)
    console.print(table)
    cached = sum(row["state"] == "cached" for row in rows)
    unknown = sum(row["key"] is None for row in rows)
    console.print(f"{cached} cached, {len(rows) - cached - unknown} to run, {unknown} not known yet", highlight=False)
    if unknown:
        console.print("Keys follow from the data's content: the rest is known once prepare has run.", highlight=False)
    for row in rows:
        for fault in row["faults"]:
            console.print(fault, style="yellow", highlight=False, markup=False)
