"""What a run has left as DataFrames. pandas is imported here alone, when a table is asked for."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.libraries import install

from ..api.status import RunStatus
from ..results.curves import COLUMNS as CURVE_COLUMNS
from ..results.curves import CurvePoint
from ..results.figures import COLUMNS, FigureRow
from ..results.results import Results

if TYPE_CHECKING:
    from pandas import DataFrame

STAGE_COLUMNS = ("stage", "kind", "iteration", "state", "cached", "attempts", "seconds", "tokens", "message")


def figures_frame(rows: Iterable[FigureRow]) -> DataFrame:
    """One row a model, figure and test set. Raises PermanentError `DependencyMissing` without pandas."""
    return _frame([asdict(row) for row in rows], COLUMNS).astype({"rows": "Int64"})


def curves_frame(points: Iterable[CurvePoint]) -> DataFrame:
    """One row a stage, measure and step."""
    return _frame([asdict(point) for point in points], CURVE_COLUMNS)


def stages_frame(results: Results, status: RunStatus | None) -> DataFrame:
    """One row a stage: those of the status, or else those that are finished."""
    rows: list[dict[str, Any]]
    if status is None:
        rows = [{"stage": id_, "state": "Succeeded"} for id_ in results.manifests]
    else:
        rows = [{**stage.model_dump(), "stage": stage.id} for stage in status.stages]
    for row in rows:
        manifest = results.manifests.get(row["stage"])
        if manifest is not None:
            row |= {"kind": manifest.kind, "iteration": manifest.iteration, "tokens": manifest.tokens}
            row["seconds"] = manifest.seconds
    return _frame(rows, STAGE_COLUMNS).astype({"iteration": "Int64", "tokens": "Int64", "attempts": "Int64"})


def plan_frame(rows: list[dict[str, Any]]) -> DataFrame:
    """One row a stage of a forecast: state, key, inputs."""
    return _frame(rows, ("stage", "state", "key", "inputs"))


def artifact_frame(results: Results, name: str) -> DataFrame:
    """One row a line of a JSON Lines artifact (`pairs-1`, `answers-2`, `test`).

    Raises PermanentError `ArtifactMissing`, or `NotRows` if the artifact is none of rows.
    """
    output = results.artifact(name).output
    if len(output.files) != 1 or not output.files[0].path.endswith(".jsonl"):
        raise PermanentError(
            "NotRows",
            f"{name} has no rows; artifacts with rows are pairs, rejects, responses, answers, verdicts and data",
        )
    with tempfile.TemporaryDirectory() as scratch:
        (path,) = results.fetch(output, Path(scratch))
        with path.open("rb") as lines:
            return _frame([json.loads(line) for line in lines if line.strip()])


def _frame(rows: list[Mapping[str, Any]] | list[dict[str, Any]], columns: Iterable[str] | None = None) -> DataFrame:
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise PermanentError("DependencyMissing", f"tables need the pandas package: {install('notebook')}") from error
    return pandas.DataFrame(rows, columns=None if columns is None else list(columns))
