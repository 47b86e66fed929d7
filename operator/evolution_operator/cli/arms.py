"""Tables of an experiment: what becomes or became of each stage in each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .console import say

Cells = Mapping[str, Mapping[str, str]]
"""By arm, then by stage."""
Rows = Sequence[Mapping[str, Any]]


def print_arms_forecast(console: Console, arms: Mapping[str, Rows]) -> None:
    """Print what `forecast_arms` found: one column an arm, with totals and faults below."""
    print_stages(console, {arm: {row["stage"]: _planned(row) for row in rows} for arm, rows in arms.items()})
    for arm, rows in arms.items():
        cells = [_planned(row) for row in rows]
        cached, unknown = cells.count("cached"), cells.count("?")
        shared = sum(cell.startswith("as ") for cell in cells)
        counts = f"{cached} cached, {cells.count('to run')} to run, {shared} shared with an earlier arm"
        say(console, f"{arm}: {counts}" + (f", {unknown} not known yet" if unknown else ""))
    # A stage that several arms share has one fault.
    for fault in dict.fromkeys(fault for rows in arms.values() for row in rows for fault in row["faults"]):
        say(console, fault, "yellow")


def _planned(row: Mapping[str, Any]) -> str:
    if row["state"] == "cached":
        return "cached"
    if row["sharedWith"] is not None:
        return f"as {row['sharedWith']}"
    return "to run" if row["key"] else "?"


def print_results(console: Console, arms: Mapping[str, Rows]) -> None:
    """Print which arm computed which stage, from the stages of the arms' summaries with `sharedWith`."""
    print_stages(console, {arm: {row["id"]: _ended(row) for row in rows} for arm, rows in arms.items()})
    for arm, rows in arms.items():
        cells = [_ended(row) for row in rows]
        shared = sum(cell.startswith("as ") for cell in cells)
        say(
            console,
            f"{arm}: {cells.count('computed')} computed, {shared} shared with an earlier arm, "
            f"{cells.count('cached')} cached before",
        )


def _ended(row: Mapping[str, Any]) -> str:
    if row["state"] != "Succeeded":
        return "failed" if row["state"] == "Failed" else "-"
    if not row["cached"]:
        return "computed"
    return f"as {row['sharedWith']}" if row["sharedWith"] is not None else "cached"


def print_stages(console: Console, arms: Cells) -> None:
    """Print a table with a row for each stage and a column for each arm."""
    table = Table("stage", *(escape(arm) for arm in arms))
    for stage in dict.fromkeys(stage for cells in arms.values() for stage in cells):
        table.add_row(stage, *(escape(cells.get(stage, "")) for cells in arms.values()))
    console.print(table)
