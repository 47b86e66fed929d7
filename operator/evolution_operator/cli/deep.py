"""`evolution validate --deep`: what a run will train on, as text or JSON."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from evolution_jobs.printable import printable
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..planner.graph import build_graph
from ..planner.observed import Run

if TYPE_CHECKING:
    from evolution_jobs.survey import Survey


def look(run: Run) -> Survey:
    """Run prepare's checks on the run's data and model, without weights. Raises StageError."""
    # Takes a second to import, and only this command needs it.
    from evolution_jobs.libraries import set_library_defaults
    from evolution_jobs.survey import survey

    set_library_defaults()
    with tempfile.TemporaryDirectory(prefix="evolution-") as directory:
        return survey(build_graph(run.spec, {}), run.spec.storage, run.spec.seed, Path(directory))


def print_survey(console: Console, found: Survey) -> None:
    """Print counts, examples with their learnt tokens marked, and the estimate."""
    for name, count in found.counts.items():
        console.print(f"{name:<28} {count:>12,}", highlight=False)
    for number, example in enumerate(found.examples, start=1):
        console.print(f"\n[bold]Example {number}[/bold] (learnt: [green]»…«[/green])", highlight=False)
        line = Text()
        for run in example:
            text = printable(run.text, kept="\n")
            line.append(f"»{text}«" if run.learnt else text, "green" if run.learnt else "dim")
        console.print(line, soft_wrap=True)
    table = Table("stage", "rows", "steps", "prompt tokens", "tokens", title="Estimate", title_justify="left")
    for each in found.estimates:
        values = (each.rows, each.steps, each.prompt_tokens, each.tokens)
        table.add_row(each.stage, *("" if value is None else f"{value:,}" for value in values))
    console.print()
    console.print(table)
    console.print("Steps and tokens at most. Prompt tokens about, from a sample.\n", highlight=False)
    for note in [*found.notes, *found.details["badRows"]]:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
