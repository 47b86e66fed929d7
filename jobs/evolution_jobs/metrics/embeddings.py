"""Figures of sentence embeddings: how near answers are to what was said and to the human answers, and how far apart. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from ..contract.figures import Figure
from .answered import Answered
from .bootstrap import Estimate, Floats, bootstrap, per_row, ratio
from .figure import figure_of

RELEVANCE = "mean cosine of the answer and the seeker's last turn"
SIMILARITY = "mean cosine of the answer and the human answer"
DIVERSITY = "100 less the mean cosine of two answers"


class Vectors(NamedTuple):
    """A vector of length 1 for each row: (rows, dimensions) each."""

    answers: Floats
    humans: Floats
    asked: Floats
    """Of the seeker's last turn."""

    def only(self, rows: list[int]) -> Vectors:
        """Some of the rows, by position."""
        return Vectors(*(each[rows] for each in self))


def figures(rows: Answered, vectors: Vectors, method: str, name: str | None = None) -> list[Figure]:
    """The figures over one set of rows in percent, with intervals by dialogue; diversity only of two rows or more.

    `method` says how the vectors were made.
    """
    asked, humans = vectors.asked, vectors.humans
    found: dict[str, tuple[str, Estimate, Estimate | None]] = {
        "embedding_relevance": (RELEVANCE, _nearness(vectors.answers, asked, rows), _nearness(humans, asked, rows)),
        "embedding_similarity": (SIMILARITY, _nearness(vectors.answers, humans, rows), None),
    }
    if len(rows) > 1:
        of_humans = diversity(humans, rows.dialogues)
        found["embedding_diversity"] = (DIVERSITY, diversity(vectors.answers, rows.dialogues), of_humans)
    return [
        figure_of(
            figure,
            estimate,
            rows=len(rows),
            row_set=rows.row_set,
            method=f"{words}; {method}",
            set=name,
            human=human.value if human else None,
        )
        for figure, (words, estimate, human) in found.items()
    ]


def bertscore_figure(rows: Answered, f1: Floats, method: str, name: str | None = None) -> Figure:
    """The mean of the rows' F1 over one set of rows in percent, with an interval by dialogue."""
    estimate = bootstrap(per_row(f1.tolist()), ratio, rows.dialogues)
    return figure_of("bertscore_f1", estimate, rows=len(rows), row_set=rows.row_set, method=method, set=name)


def _nearness(one: Floats, other: Floats, rows: Answered) -> Estimate:
    return bootstrap(per_row((100 * (one * other).sum(axis=1)).tolist()), ratio, rows.dialogues)


COSINES_APART = (0.0, 200.0)
"""Bounds of 100 less a cosine in percent."""


def diversity(vectors: Floats, dialogues: Sequence[str] | None = None) -> Estimate:
    """100 less the mean cosine of two different rows, in percent; jackknifed by dialogue. `vectors` has two rows or more.

    The square of the vectors' sum is the sum of all cosines, each row's with itself included, which is 1.
    """
    names = list(range(len(vectors))) if dialogues is None else list(dialogues)
    index: dict[Hashable, int] = {}
    groups = [index.setdefault(name, len(index)) for name in names]
    sums, counts = np.zeros((len(index), vectors.shape[1])), np.bincount(groups).astype(float)
    np.add.at(sums, groups, vectors)
    total = sums.sum(axis=0, keepdims=True)
    value = float(_apart(total, np.array([counts.sum()]))[0])
    left = counts.sum() - counts
    # Without a dialogue that has nearly all rows, there are no two answers to compare.
    if len(index) < 2 or left.min() < 2:
        return Estimate(value, np.empty(0), "jackknife", len(index))
    return Estimate(value, _apart(total - sums, left), "jackknife", len(index), COSINES_APART)


def _apart(sums: Floats, counts: Floats) -> Floats:
    cosines = ((sums**2).sum(axis=1) - counts) / (counts * (counts - 1))
    return np.asarray(100 * (1 - cosines), np.float64)
