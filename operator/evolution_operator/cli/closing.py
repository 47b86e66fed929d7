"""The closing page of a run: figures of every Mt side by side, how to get the artifacts, what to do next."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from evolution_jobs.contract.figures import digits, kind_of
from rich.console import Console
from rich.table import Table

from ..planner.policies import champion_rule
from ..reporting.figures import SHOWN
from ..reporting.words import drops
from .named import reference


def print_closing(console: Console, summary: dict[str, Any], file: Path, storage: str | None = None) -> None:
    """Print the closing page of a finished or failed run. `storage` is the one that the command line named."""
    if summary["metrics"]:
        console.print(_table(summary))
    for sentence in summary["ineligible"]:
        console.print(f"{sentence}. It cannot be the champion.", highlight=False, markup=False, soft_wrap=True)
    if summary["stoppedEarly"]:
        console.print(f"Stopped early: {summary['stoppedEarly']}", highlight=False, markup=False, soft_wrap=True)
    _print_pairs(console, summary)
    for stage in summary["stages"]:
        for note in stage["notes"]:
            console.print(f"{stage['id']}: {note}", highlight=False, markup=False, soft_wrap=True)
    if summary["artifacts"]:
        console.print("\n[bold]Artifacts[/bold]")
        for line in _artifacts(summary, file, storage):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if summary.get("report"):
        console.print(f"  {'report':<11} {summary['report']}", highlight=False, markup=False, soft_wrap=True)
    elif summary.get("reportMissing"):
        console.print(f"No report: {summary['reportMissing']}", highlight=False, markup=False, soft_wrap=True)
    cached = sum(stage["cached"] for stage in summary["stages"])
    share = 100 * summary["overheadSeconds"] / summary["seconds"] if summary["seconds"] else 0
    console.print(
        f"\n{summary['phase']} in {summary['seconds']:.0f} s: stages {summary['stageSeconds']:.0f} s"
        f" ({cached} of {len(summary['stages'])} cached), driver and start-up {summary['overheadSeconds']:.1f} s"
        f" ({share:.1f} %)",
        highlight=False,
    )
    if summary["phase"] == "Complete":
        console.print("\n[bold]What to do next[/bold]")
        more = "allow more in spec.stopping" if summary["stoppedEarly"] else "raise spec.iterations"
        for line in (
            f"evolution plan -f {reference(str(file), storage=storage)}            which stages are cached, and their keys",
            f"{more} in {file} and run again: only the new rounds run",
            "change spec.dpo.beta and run again: SFT, answers and pairs are reused",
        ):
            console.print(f"  {line}", highlight=False, soft_wrap=True)
    elif summary["phase"] == "Failed":
        console.print()
        for line in failures(summary):
            console.print(line, style="red", highlight=False, markup=False, soft_wrap=True)


def _artifacts(summary: dict[str, Any], file: Path, storage: str | None) -> list[str]:
    """Commands that copy, try and show what the run has made: one for each kind of artifact."""
    run = reference(str(file), storage=storage)
    names: dict[str, list[str]] = {}
    for name in summary["artifacts"]:
        names.setdefault(re.sub(r"-?\d+$", "", name), []).append(name)
    lines = [f"evolution get {run} {' '.join(each)}" for each in names.values()]
    if models := names.get("M"):
        chosen = f"M{summary['champion']}"
        model = chosen if chosen in models else models[-1]
        lines += [f"evolution chat {run} --model {model}", f"evolution report {run}"]
    return lines


def failures(summary: dict[str, Any]) -> list[str]:
    """Why each failed stage has failed; if none has, why the run has."""
    stages = [stage for stage in summary["stages"] if stage["state"] == "Failed"]
    found = [f"stage {stage['id']}: {stage['reason']}: {stage['message']}" for stage in stages]
    return found or [summary["message"] or "no reason is known"]


def _table(summary: dict[str, Any]) -> Table:
    by_iteration = {entry["iteration"]: entry for entry in summary["metrics"]}
    table = Table(title="The same held-out contexts and seeds for every model", title_justify="left")
    table.add_column("")
    for iteration in sorted(by_iteration):
        star = " *" if iteration == summary["champion"] else ""
        table.add_column(f"M{iteration}{star}", justify="right")
    profiles = dict.fromkeys(
        name for entry in summary["metrics"] for name in entry if name.startswith("profile_") and kind_of(name)
    )
    for name in (*SHOWN, *profiles):
        values = [by_iteration[iteration].get(name) for iteration in sorted(by_iteration)]
        kind = kind_of(name)
        if kind and any(value is not None for value in values):
            places = digits(value for value in values if value is not None)
            table.add_row(kind.label, *("" if value is None else f"{value:z.{places}f}" for value in values))
    rule = champion_rule(summary["championRule"], summary["championMetric"])
    table.caption = f"* champion: {rule}"
    table.caption_justify = "left"
    return table


def _print_pairs(console: Console, summary: dict[str, Any]) -> None:
    """How many preference pairs each round kept, and why rows were dropped."""
    for stage in summary["stages"]:
        if not stage["id"].startswith("reflect-") or not stage["counts"]:
            continue
        counts = stage["counts"]
        dropped = drops(counts)
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
        tail = f"; dropped {sum(dropped.values())}: {reasons}" if dropped else "; none dropped"
        console.print(f"{stage['id']}: {counts.get('pairs', 0)} pairs kept{tail}", highlight=False)
