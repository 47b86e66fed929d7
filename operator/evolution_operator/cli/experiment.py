"""`evolution experiment`: run all arms of an experiment on this machine, or print them for a cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from evolution_jobs.contract.errors import StageError
from rich.console import Console

from ..api.experiment import load_experiment
from ..api.run_file import write_documents
from .console import open_console, say
from .exit_codes import EXIT_INTERRUPTED, exit_code
from .options import INTERRUPTED, Output, OutputOption, StorageOption

if TYPE_CHECKING:
    from evolution_jobs.metrics.compare import Comparison

    from ..planner.observed import Run

app = typer.Typer(help="Runs that differ in a few fields, from one file.", no_args_is_help=True)

ExperimentOption = Annotated[
    Path, typer.Option("--file", "-f", help="The experiment: a base spec and variants in YAML.")
]
Arms = dict[str, dict[str, Any]]
"""By variant: the run's summary, or for a run that could not start its phase and message alone."""


@app.command()
def run(file: ExperimentOption, storage: StorageOption = None, output: OutputOption = Output.text) -> None:
    """Run all arms one after the other, or continue an earlier call; then compare their last models."""
    from ..local.load import local_arms

    console = open_console(stderr=output is Output.json)
    started = time.monotonic()
    runs = local_arms(file, storage)
    try:
        arms = _with_sharing(_drive_all(console, runs))
    except KeyboardInterrupt:
        console.print(INTERRUPTED, highlight=False)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    comparison, why_not = _compared({variant: runs[variant] for variant in runs if _complete(arms[variant])})
    if output is Output.json:
        compared = {"comparison": comparison.wire() if comparison else None, "notCompared": why_not}
        each = [{"variant": variant, **arm} for variant, arm in arms.items()]
        print(
            json.dumps({"seconds": round(time.monotonic() - started, 1), "arms": each, **compared}, ensure_ascii=False)
        )
    else:
        _print_results(console, arms, comparison, why_not)
        if comparison is not None:
            say(console, f"Compare again, or other figures: evolution compare {file} --figures NAMES")
    raise typer.Exit(exit_code([arm["phase"] for arm in arms.values()]))


@app.command()
def manifests(file: ExperimentOption) -> None:
    """Print the arms as EvolutionRuns for `kubectl apply -f -`. On a cluster they share stages by their storage."""
    print(write_documents([arm.document for arm in load_experiment(file).arms]), end="")


def _drive_all(console: Console, runs: Mapping[str, Run]) -> Arms:
    """Drive the runs one after the other. One that fails does not keep the others from running."""
    from .drive import drive

    arms: Arms = {}
    for number, (variant, wanted) in enumerate(runs.items(), start=1):
        console.print(f"\n[bold]Arm {number} of {len(runs)}: {variant}[/bold]", highlight=False)
        try:
            arms[variant] = drive(wanted, console).summary
        except StageError as error:
            arms[variant] = {"phase": "Failed", "message": f"{error.reason}: {error}", "stages": []}
        say(console, f"{variant}: {arms[variant]['phase']}")
        if place := arms[variant].get("report"):
            say(console, f"{variant}: report in {place}")
        for line in _failures(arms[variant]):
            say(console, f"{variant}: {line}", "red")
    return arms


def _failures(arm: Mapping[str, Any]) -> list[str]:
    from .closing import failures

    return failures(dict(arm)) if arm["phase"] == "Failed" else []


def _complete(arm: Mapping[str, Any]) -> bool:
    return bool(arm["phase"] == "Complete")


def _with_sharing(arms: Arms) -> Arms:
    """The summaries, with the earlier variant that has finished the same stage (`sharedWith`) in each stage, or None."""
    from ..planner.sharing import shared_with

    # A stage that failed has a key, but no result that another arm could have used.
    keys = {
        variant: {row["id"]: row["key"] for row in arm["stages"] if row["key"] and row["state"] == "Succeeded"}
        for variant, arm in arms.items()
    }
    shared = shared_with(keys)
    return {
        variant: {**arm, "stages": [row | {"sharedWith": shared[variant].get(row["id"])} for row in arm["stages"]]}
        for variant, arm in arms.items()
    }


def _compared(runs: Mapping[str, Run]) -> tuple[Comparison | None, str | None]:
    """The last models of these runs on the rows that all answered; or None, and why they are not compared."""
    from evolution_jobs.metrics.compare import compare

    from ..results.answers import answers_of_arms

    if len(runs) < 2:
        return None, "fewer than two arms are complete"
    try:
        return compare(answers_of_arms(runs)), None
    except StageError as error:
        # Whatever happens, the summaries of arms that took hours are printed.
        return None, str(error)


def _print_results(console: Console, arms: Arms, comparison: Comparison | None, why_not: str | None) -> None:
    from .arms import print_results
    from .compare import print_comparison

    console.print()
    print_results(console, {variant: arm["stages"] for variant, arm in arms.items()})
    console.print()
    if comparison is not None:
        print_comparison(console, comparison)
    else:
        say(console, f"Not compared: {why_not}")
    if others := [variant for variant, arm in arms.items() if not _complete(arm)]:
        done = len(arms) - len(others)
        line = (
            f"\n{done} of {len(arms)} arms complete; not {', '.join(others)}. Run the same command to try them again."
        )
        say(console, line, "red")
