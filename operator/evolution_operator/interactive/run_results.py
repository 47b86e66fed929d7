"""`RunResults`: what a run has left, as DataFrames and pages. `run` and `open_run` return it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..api.status import RunStatus
from ..reporting import load_writer
from ..results.curves import curves
from ..results.figures import FigureRow, read_figures
from ..results.results import Results
from .inline import ReportPage, summary_html
from .tables import artifact_frame, curves_frame, figures_frame, stages_frame

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class RunResults:
    """A run as it was when it was read. Tables need pandas.

    Every table raises PermanentError `DependencyMissing` without pandas, and what the store raises.
    """

    results: Results
    """The finished stages, and the store that has their files."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """What `evolution run -o json` prints, if this call drove the run."""

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.results.name

    @property
    def status(self) -> RunStatus | None:
        """What the cluster or the planner says of the run; None if only its storage is known."""
        return self.results.status

    @property
    def phase(self) -> str | None:
        """Pending, Running, Suspended, Complete or Failed; None if only its storage is known."""
        driven: str | None = self.summary.get("phase")
        return driven or (self.status.phase if self.status else None)

    @property
    def message(self) -> str | None:
        """Why the run has failed or was stopped early."""
        held = [self.status.condition(each) for each in ("Failed", "StoppedEarly")] if self.status else []
        return next(filter(None, [self.summary.get("message"), self.summary.get("stoppedEarly"), *held]), None)

    @property
    def champion(self) -> str | None:
        """The model that `evaluation.champion_rule` chooses so far: `M1`."""
        return self.results.champion

    @property
    def models(self) -> list[str]:
        """The models that are trained: M0, M1, ..."""
        return self.results.models

    @cached_property
    def figure_rows(self) -> list[FigureRow]:
        """Every figure of every model, without pandas."""
        return read_figures(self.results)

    @property
    def figures(self) -> DataFrame:
        """Every figure of every model: model, figure, label, value, low, high, human, unit, better, set, rows, ..."""
        return figures_frame(self.figure_rows)

    @property
    def curves(self) -> DataFrame:
        """Losses and reward margins of every training by step: stage, model, measure, step, value."""
        return curves_frame(curves(self.results.manifests.values()))

    @property
    def stages(self) -> DataFrame:
        """Every stage: state, attempts, seconds, tokens, message."""
        return stages_frame(self.results, self.status)

    def rows(self, artifact: str) -> DataFrame:
        """The rows of an artifact by its name: `pairs-1`, `answers-2`, `verdicts-1`, `test`.

        Raises PermanentError `ArtifactMissing`, `NotRows`.
        """
        return artifact_frame(self.results, artifact)

    def pairs(self, round: int) -> DataFrame:
        """The preference pairs of a round, which Mt was trained on: turns, chosen, rejected, profile, ..."""
        return self.rows(f"pairs-{round}")

    def rejects(self, round: int) -> DataFrame:
        """The rows that reflect dropped in a round, with the reason."""
        return self.rows(f"rejects-{round}")

    def answers(self, model: str | int) -> DataFrame:
        """What a model (`M1`, or 1) answered to the held-out contexts, beside the human answers."""
        return self.rows(f"answers-{str(model).removeprefix('M')}")

    def report(self, path: str | Path | None = None) -> ReportPage:
        """The report as one HTML page, which a notebook shows in a frame. `path` keeps it as a file, too.

        Raises PermanentError `DependencyMissing` if what a report needs is not installed.
        """
        write_report = load_writer()
        if path is not None:
            file = Path(path).absolute()
            write_report(self.results, file)
            return ReportPage(file.read_text("utf-8"), file)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "report.html"
            write_report(self.results, file)
            return ReportPage(file.read_text("utf-8"))

    def __repr__(self) -> str:
        champion = f", champion {self.champion}" if self.champion else ""
        return f"RunResults({self.results.namespace}/{self.name}, {self.phase or 'phase unknown'}, models {self.models}{champion})"

    def _repr_html_(self) -> str:
        title = f"{self.results.namespace}/{self.name}: {self.phase or 'phase unknown'}"
        known = [self.message, f"Champion: {self.champion}." if self.champion else None]
        headlines = [row for row in self.figure_rows if row.set is None and row.headline]
        return summary_html(title, [each for each in known if each], headlines, self.champion)
