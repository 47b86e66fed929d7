"""`evolution figures`: every figure of every model of a run, as a table, JSON or CSV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from evolution_jobs.contract.figures import digits
from evolution_jobs.printable import printable
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..results.figures import FigureRow, figures_as_csv, figures_as_json, read_figures
from .console import open_console, say
from .named import EndpointOption, NamespaceOption, RunArgument, read_results
from .options import StorageOption


class Format(StrEnum):
    """How figures are printed."""

    text = "text"
    json = "json"
    csv = "csv"


FormatOption = Annotated[
    Format, typer.Option("--output", "-o", help="text, one JSON list, or CSV; JSON and CSV have all that is known.")
]


def figures(
    run: RunArgument,
    namespace: NamespaceOption = None,
    storage: StorageOption = None,
    endpoint: EndpointOption = None,
    output: FormatOption = Format.text,
) -> None:
    """Show every figure of every model, with 95 % intervals, unit, method and row set."""
    results = read_results(run, namespace, storage, endpoint=endpoint)
    rows = read_figures(results)
    for stage, fault in results.faults.items():
        say(open_console(stderr=True), printable(f"{stage}: {fault}"), "red")
    match output:
        case Format.json:
            print(json.dumps(figures_as_json(rows), ensure_ascii=False, indent=1))
        case Format.csv:
            print(figures_as_csv(rows), end="")
        case Format.text:
            print_figures(open_console(), rows)


def print_figures(console: Console, rows: Sequence[FigureRow]) -> None:
    """Print a table of all rows together, then one of each test set: a line a figure, a column a model."""
    if not rows:
        console.print("no model has figures yet", highlight=False)
    for name in dict.fromkeys(row.set for row in rows):
        console.print(_table(name, [row for row in rows if row.set == name]))


def _table(name: str | None, rows: Sequence[FigureRow]) -> Table:
    models = list(dict.fromkeys(row.model for row in rows))
    cells = {(row.figure, row.model): row for row in rows}
    table = Table(title=None if name is None else escape(f"test set {name}"), title_justify="left")
    table.add_column("")
    for model in (*models, "human"):
        table.add_column(model, justify="right")
    for figure, label in {row.figure: row.label for row in rows}.items():
        found = [cells.get((figure, model)) for model in models]
        human = next((row.human for row in found if row and row.human is not None), None)
        places = digits(row.value for row in found if row)
        shown = (_cell(row, places) for row in found)
        table.add_row(Text(label), *shown, "" if human is None else f"{human:z.{places}f}")
    return table


def _cell(row: FigureRow | None, places: int) -> str:
    """`1.88 (0.95 to 3.02)`."""
    if row is None:
        return ""
    value = f"{row.value:z.{places}f}"
    return (
        value if row.low is None or row.high is None else f"{value} ({row.low:z.{places}f} to {row.high:z.{places}f})"
    )
