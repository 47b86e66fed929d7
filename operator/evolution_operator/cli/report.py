"""`evolution report`: one HTML file about a run, which can be sent to somebody who was not there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .named import EndpointOption, NamespaceOption, RunArgument, read_results
from .options import StorageOption

ReportFile = Annotated[Path, typer.Option("--output", "-o", help="The HTML file; an earlier report there is replaced.")]


def report(
    run: RunArgument,
    output: ReportFile = Path("report.html"),
    namespace: NamespaceOption = None,
    storage: StorageOption = None,
    endpoint: EndpointOption = None,
) -> None:
    """Write a report of a run: what happened, what is true now, what to do next, and every pair and answer."""
    from ..reporting import load_writer

    write_report = load_writer()
    write_report(read_results(run, namespace, storage, endpoint=endpoint), output)
    print(f"{output}: report of {run}; open it in a browser, or send it: it is complete in itself")
