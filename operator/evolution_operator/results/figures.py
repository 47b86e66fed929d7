"""Every figure of every model of a run as rows: for tables, JSON, CSV, DataFrames and trackers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.figures import KINDS, Figure, figures_of, kind_of
from evolution_jobs.contract.manifest import Manifest
from evolution_jobs.printable import printable
from pydantic import ValidationError

from .results import Results
from .spreadsheet import as_csv

PLACES = {name: place for place, name in enumerate(KINDS)}
"""Of each figure in tables."""
ABOUT_MODELS = ("reflect", "dpo", "evaluate", "judge")
"""Kinds of stages that find out something about a model."""


@dataclass(frozen=True)
class FigureRow:
    """A figure of a model over a set of rows."""

    model: str
    """`M2`."""
    iteration: int
    """Its round: 2; 0 for M0."""
    figure: str
    """Name of the figure: `bleu2_ref`."""
    label: str
    """What tables call it, with its unit."""
    value: float
    low: float | None
    """Lower end of the 95 % interval; None if there are too few dialogues."""
    high: float | None
    human: float | None
    """The same figure of the human answers, if it needs no reference."""
    unit: str
    better: str
    """`higher`, `lower` or `neither`."""
    set: str | None
    """Name of the test set; None for all rows together."""
    rows: int | None
    """Rows that the figure is computed from; None if the stage does not say."""
    row_set: str | None
    """Digest of those rows. Two values compare only if it is equal, and `method` too."""
    method: str | None
    stage: str
    """The stage that found it: `evaluate-2`."""
    headline: bool
    """Whether the status of the run shows it."""


COLUMNS = tuple(field.name for field in fields(FigureRow))


def read_figures(results: Results) -> list[FigureRow]:
    """Every figure of every model, by round, in the order of tables. Empty if nothing was evaluated.

    Raises PermanentError `FiguresUnreadable`, and what the store raises.
    """
    found: list[FigureRow] = []
    with tempfile.TemporaryDirectory() as scratch:
        for manifest in results.manifests.values():
            if manifest.kind in ABOUT_MODELS and manifest.iteration is not None:
                found += rows_of(manifest, _document(results, manifest, Path(scratch) / manifest.key))
    return sorted(found, key=_order)


def rows_of(manifest: Manifest, document: Mapping[str, Any]) -> Iterator[FigureRow]:
    """The figures of one stage: those of its document, or else those of its manifest. Raises PermanentError."""
    listed = document.get("figures")
    if isinstance(listed, list):
        try:
            figures = [Figure.stored(each) for each in listed]
        except ValidationError as error:
            raise _unreadable(manifest, error.errors(include_url=False)[0]["msg"]) from error
        yield from (_of_figure(manifest, figure) for figure in figures)
    else:
        yield from _of_manifest(manifest)


def figures_as_json(rows: Sequence[FigureRow]) -> list[dict[str, Any]]:
    """The rows as JSON values, without what is not known."""
    return [{name: value for name, value in asdict(row).items() if value is not None} for row in rows]


def figures_as_csv(rows: Sequence[FigureRow]) -> str:
    """The rows as CSV with a header, safe to open in a spreadsheet."""
    return as_csv(COLUMNS, (asdict(row).values() for row in rows))


def _document(results: Results, manifest: Manifest, directory: Path) -> dict[str, Any]:
    """What the stage wrote about its figures; empty if it writes no such file."""
    output = manifest.outputs.get("metrics")
    if output is None:
        return {}
    (path,) = results.fetch(output, directory)
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _unreadable(manifest, "it is no JSON") from error
    if not isinstance(found, dict):
        raise _unreadable(manifest, "it is no JSON object")
    return found


def _of_figure(manifest: Manifest, figure: Figure) -> FigureRow:
    low, high = figure.interval or (None, None)
    kind = kind_of(figure.name)
    return FigureRow(
        model=f"M{manifest.iteration}",
        iteration=manifest.iteration or 0,
        # Names come from run files and buckets, methods from libraries: a terminal must not obey them.
        figure=printable(figure.name),
        label=kind.label if kind else printable(figure.name),
        value=figure.value,
        low=low,
        high=high,
        human=figure.human,
        unit=figure.unit,
        better=figure.better,
        set=None if figure.set is None else printable(figure.set),
        rows=figure.rows,
        row_set=figure.row_set,
        method=printable(figure.method),
        stage=printable(manifest.stage),
        headline=figure.headline,
    )


def _of_manifest(manifest: Manifest) -> Iterator[FigureRow]:
    """What is known without a document: reflect and dpo write their figures into the manifest alone."""
    for name, value in figures_of(manifest.kind, manifest.metrics).items():
        kind = kind_of(name)
        if kind is not None:
            low, high = manifest.intervals.get(name) or (None, None)
            yield FigureRow(
                model=f"M{manifest.iteration}",
                iteration=manifest.iteration or 0,
                figure=name,
                label=kind.label,
                value=value,
                low=low,
                high=high,
                human=None,
                unit=kind.unit,
                better=kind.better,
                set=None,
                rows=None,
                row_set=None,
                method=None,
                stage=printable(manifest.stage),
                headline=kind.headline,
            )


def _order(row: FigureRow) -> tuple[int, bool, str, int]:
    """By round, all rows before each test set, and as in tables; figures of profiles last."""
    return (row.iteration, row.set is not None, row.set or "", PLACES.get(row.figure, len(PLACES)))


def _unreadable(manifest: Manifest, words: str) -> PermanentError:
    file = manifest.outputs["metrics"].files[0].location
    return PermanentError(
        "FiguresUnreadable",
        f"stage {manifest.stage}: {file} cannot be read ({words}); use the version that made it, or evaluate again",
    )
