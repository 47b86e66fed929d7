"""What a notebook shows of a run: a summary, and the report in a frame. HTML, with all text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from evolution_jobs.contract.figures import digits

from ..results.figures import FigureRow

HEIGHT = 720
"""Pixels of the frame."""
INLINE_LIMIT = 16 << 20
"""Bytes of a report that a notebook's file may take up; a larger one is only linked."""


@dataclass(frozen=True)
class ReportPage:
    """A report. A notebook shows it, and `path` has it as a file if one was asked for."""

    html: str
    path: Path | None = None

    def _repr_html_(self) -> str:
        if len(self.html) > INLINE_LIMIT:
            words = f"in {self.path}" if self.path else "too large for a notebook; name a file with path="
            return f"<p>The report is {escape(words)}.</p>"
        # Without allow-same-origin, scripts of the report cannot reach the notebook.
        return (
            f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts" title="Report" '
            f'style="width:100%;height:{HEIGHT}px;border:1px solid #8888"></iframe>'
        )

    def __repr__(self) -> str:
        return f"ReportPage({len(self.html)} characters{f', {self.path}' if self.path else ''})"


def summary_html(title: str, sentences: Iterable[str], rows: Sequence[FigureRow], champion: str | None) -> str:
    """A heading, sentences, and a table of figures: a line a figure, a column a model."""
    models = list(dict.fromkeys(row.model for row in rows))
    cells = {(row.figure, row.model): row for row in rows}
    head = "".join(f"<th>{escape(model)}{' *' if model == champion else ''}</th>" for model in models)
    body = "".join(
        _line(label, [cells.get((name, model)) for model in models])
        for name, label in {row.figure: row.label for row in rows}.items()
    )
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
    return f"<h4>{escape(title)}</h4>{''.join(f'<p>{escape(each)}</p>' for each in sentences)}{table}"


def _line(label: str, found: Sequence[FigureRow | None]) -> str:
    places = digits(row.value for row in found if row)
    values = "".join(f"<td>{'' if row is None else f'{row.value:z.{places}f}'}</td>" for row in found)
    return f"<tr><th style='text-align:left'>{escape(label)}</th>{values}</tr>"
