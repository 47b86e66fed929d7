"""How near inferred profiles are to texts of the data, as a sentence model sees them, and how near by chance. Pure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..contract.figures import Figure
from ..contract.manifest import canonical_digest
from .bootstrap import Estimate, Floats, bootstrap, by_group, jackknife_sums, per_row, ratio
from .figure import figure_of

SIMILARITY = "mean cosine of the field and the label; a profile that does not parse counts as 0"
CHANCE = (
    "mean cosine of a field and the label of another dialogue, over all such pairs of contexts; a profile that does not "
    "parse counts as 0; interval by jackknife"
)


class Described(NamedTuple):
    """A field of profiles beside a text of the data, one row for each context that has the text."""

    ids: list[str]
    """The contexts'."""
    dialogues: list[str]
    labels: list[str]
    """The texts of the data."""
    inferred: Floats
    """(rows, dimensions): the field as a vector of length 1; 0 if the profile does not parse."""
    described: Floats
    """(rows, dimensions): the label as a vector of length 1."""

    @property
    def cosines(self) -> list[float]:
        """Of each row's field and label, in percent."""
        return [float(cosine) for cosine in 100 * (self.inferred * self.described).sum(axis=1)]


def nearness(name: str, rows: Described, method: str) -> list[Figure]:
    """The figures `profile_<name>_similarity` and, of two dialogues or more, `profile_<name>_similarity_chance` in percent, with
    intervals by dialogue.

    `rows` must not be empty; `method` says how the vectors were made.
    """
    row_set = canonical_digest([[id_, label] for id_, label in zip(rows.ids, rows.labels, strict=True)])
    found = [("similarity", bootstrap(per_row(rows.cosines), ratio, rows.dialogues), SIMILARITY)]
    if len(set(rows.dialogues)) > 1:
        found.append(("similarity_chance", _chance(rows), CHANCE))
    return [
        figure_of(f"profile_{name}_{what}", estimate, rows=len(rows.ids), row_set=row_set, method=f"{words}; {method}")
        for what, estimate, words in found
    ]


def _chance(rows: Described) -> Estimate:
    """What a shuffle of the labels among dialogues has on average, without the draw of one.

    The product of two sums of vectors is the sum of all cosines. Those within a dialogue are taken out.
    """
    inferred, described = by_group(rows.inferred, rows.dialogues), by_group(rows.described, rows.dialogues)
    counts = by_group(np.ones((len(rows.ids), 1)), rows.dialogues)
    within = (inferred * described).sum(axis=1, keepdims=True)
    width = inferred.shape[1]

    def apart(sums: Floats) -> Floats:
        fields, labels, (own, total, squares) = sums[:, :width], sums[:, width:-3], sums[:, -3:].T
        return ratio(np.column_stack([100 * ((fields * labels).sum(axis=1) - own), total**2 - squares]))

    statistics = np.column_stack([inferred, described, within, counts, counts**2])
    estimate = jackknife_sums(statistics, apart, range(len(counts)), (-100.0, 100.0))
    # Of two dialogues one is left out, and the other has no label but its own.
    return estimate if estimate.groups > 2 else Estimate(estimate.value, np.empty(0), "jackknife", estimate.groups)
