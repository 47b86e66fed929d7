"""`Figure`: one number about the answers of a model, with everything that makes it comparable."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .document import Document

Unit = Literal["percent", "words", "tokens", "nats", "ratio", "score"]
Better = Literal["higher", "lower", "neither"]
"""Which direction is better. `neither`: a figure to watch, such as a length."""


class Figure(Document):
    """A figure over a set of rows. Two figures compare only if `name`, `method` and `row_set` are equal."""

    name: str
    """The figure and its variant, as tables and the status name it: `bleu2_ref`."""
    value: float
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """95 % interval [low, high], with whole dialogues as the unit; unset if there are too few of them."""
    human: float | None = None
    """The same figure of the human answers, if it needs no reference."""
    unit: Unit
    better: Better
    rows: int
    """Rows that the figure is computed from."""
    row_set: str
    """Digest of the rows' ids and human answers."""
    set: str | None = None
    """Name of the test set; unset for all rows together."""
    method: str
    """How it is computed: tokeniser, smoothing, library and version."""
    headline: bool = False
    """Whether the status of the run shows it."""
