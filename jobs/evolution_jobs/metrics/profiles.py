"""How accurate inferred profiles are: what a field means, the confusion with the data's labels, and its figures. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..contract.figures import Figure
from ..contract.manifest import canonical_digest
from ..unspaced import has_unspaced
from .bootstrap import PERCENT, Floats, bootstrap, jackknife_sums, per_row, ratio
from .figure import figure_of

NO_WORD = "(no known word)"
"""In a confusion: the field has none of the words."""
UNPARSED = "(unparsed)"
"""In a confusion: the text is not a profile."""

ACCURACY = "profiles that mean the data's label / contexts that have one; a profile that does not parse is wrong"
MACRO_F1 = (
    "mean F1 of the labels that occur in the data; a profile that does not parse means no label; interval by jackknife"
)

MOST_LABELS = 200
"""Labels of a comparison. Text that is no label has as many values as there are dialogues, and no mean over them says anything."""


class Vocabulary:
    """The labels of a comparison, and the words that mean them. Case and the number of blanks do not count."""

    def __init__(self, values: Mapping[str, Sequence[str]], data: Iterable[str]) -> None:
        """`values` are each label's other words; a word of several labels means the first. `data` are the data's labels:
        one that `values` does not know is a label of its own.
        """
        self._labels = {plain(label): label for label in values}
        for label, words in values.items():
            for word in words:
                self._labels.setdefault(plain(word), label)
        for label in map(plain, data):
            self._labels.setdefault(label, label)
        # The longer word first: "sick and tired" is not read as "sick".
        words = sorted(filter(None, self._labels), key=lambda word: (-len(word), word))
        self._words = re.compile("|".join(map(_pattern, words)) or r"(?!)")

    def of_data(self, label: str) -> str:
        """The label that one of the data stands for: itself, or the one that has it as a word."""
        return self._labels[plain(label)]

    def meant(self, text: str) -> str | None:
        """The label whose word comes first in the text of a field; None if no word does."""
        found = self._words.search(plain(text))
        return self._labels[found[0]] if found else None


def plain(text: str) -> str:
    """Without case, and with single blanks."""
    return " ".join(text.casefold().split())


def _pattern(word: str) -> str:
    # Scripts without spaces have no ends of words.
    return re.escape(word) if has_unspaced([word]) else rf"(?<!\w){re.escape(word)}(?!\w)"


class Compared(NamedTuple):
    """A profile's field beside the label of its context."""

    id: str
    """The context's."""
    dialogue: str
    label: str
    """Of the data."""
    meant: str
    """The label that the field means, or `NO_WORD` or `UNPARSED`."""


def confusion(rows: Iterable[Compared]) -> dict[str, dict[str, int]]:
    """How often each label of the data was taken for which; the commonest first."""
    labels = Counter(row.label for row in rows)
    table: dict[str, dict[str, int]] = {label: {} for label, _ in labels.most_common()}
    for (label, meant), count in Counter((row.label, row.meant) for row in rows).most_common():
        table[label][meant] = count
    return table


def agreement(name: str, rows: Sequence[Compared]) -> list[Figure]:
    """The figures `profile_<name>_accuracy` and `profile_<name>_macro_f1` in percent, with intervals by dialogue.

    `rows` must not be empty.
    """
    dialogues = [row.dialogue for row in rows]
    row_set = canonical_digest([[row.id, row.label] for row in rows])
    hits = per_row([100 * (row.label == row.meant) for row in rows])
    found = (
        ("accuracy", bootstrap(hits, ratio, dialogues), ACCURACY),
        # A label that a resample lacks leaves the mean, so the bootstrap's interval could exclude the value.
        ("macro_f1", jackknife_sums(_sums(rows), _macro_f1, dialogues, PERCENT), MACRO_F1),
    )
    return [
        figure_of(f"profile_{name}_{what}", estimate, rows=len(rows), row_set=row_set, method=method)
        for what, estimate, method in found
    ]


def _sums(rows: Sequence[Compared]) -> Floats:
    """(rows, 3 x labels): of each label, whether the data has it, whether the profile means it, and whether both do."""
    columns = {label: column for column, label in enumerate(sorted({row.label for row in rows}))}
    data, meant = np.zeros((2, len(rows), len(columns)))
    for place, row in enumerate(rows):
        data[place, columns[row.label]] = 1
        if row.meant in columns:
            meant[place, columns[row.meant]] = 1
    return np.concatenate([data, meant, data * meant], axis=1)


def _macro_f1(sums: Floats) -> Floats:
    """Of each resample, over the labels that occur in it: one that it lacks has no recall."""
    data, meant, both = np.split(sums, 3, axis=1)
    f1 = 2 * both / np.maximum(data + meant, 1)
    occurs = data > 0
    return ratio(np.column_stack([100 * (f1 * occurs).sum(axis=1), occurs.sum(axis=1)]))
