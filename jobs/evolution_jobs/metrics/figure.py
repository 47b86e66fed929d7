"""A `Figure` from an estimate: name and value from here, label, unit and direction from `contract.figures`."""

from __future__ import annotations

from ..contract.figures import Figure, kind_of
from .bootstrap import Estimate


def figure_of(
    name: str,
    estimate: Estimate,
    *,
    rows: int,
    row_set: str,
    method: str,
    set: str | None = None,
    human: float | None = None,
) -> Figure:
    """The figure, with its 95 % interval if there are at least two dialogues."""
    kind, interval = kind_of(name), estimate.interval()
    assert kind is not None, f"{name} is not in contract/figures.py"
    return Figure(
        name=name,
        value=estimate.value,
        interval=list(interval) if interval else None,
        human=human,
        unit=kind.unit,
        better=kind.better,
        rows=rows,
        row_set=row_set,
        set=set,
        method=method,
        headline=kind.headline,
    )
