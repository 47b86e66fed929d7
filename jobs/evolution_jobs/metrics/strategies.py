"""Which support strategy an answer names, and how that fits the strategy of the human answer. Pure.

A model that was trained on ESConv with its strategies names one at the start of an answer: `[Question] When was that?`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..contract.rows import STRATEGIES
from .bootstrap import Floats, ratio

COUNT = len(STRATEGIES)
NAMED_SHARE = 0.5
"""Least share of answers that name a strategy. With fewer, the model does not write strategies, and some look like one."""
UPDATES = 20
"""Of each preference, as in the code published with arXiv 2402.13211."""
TINY = 1e-12

METHOD = "strategy in brackets at the start of the answer, one of ESConv's 8; of several in the human answer the first"
ACCURACY = f"{METHOD}; an answer that names none is wrong"
MACRO_F1 = f"{METHOD}; mean F1 of the strategies that occur in human answers or answers; naming none means none"
BIAS = (
    f"{METHOD}; standard deviation of Bradley-Terry preferences with a mean of 1 (Kang et al., ACL 2024), {UPDATES} updates, "
    "over the strategies that occur in human answers; answers that name none are left out"
)

_NAMED = re.compile(r"\s*(?:\[([^][]{1,60})\]|\(([^()]{1,60})\))")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).casefold().strip()


_INDEX = {_plain(name): position for position, name in enumerate(STRATEGIES)}


def named(answer: str) -> int | None:
    """Position in `STRATEGIES` of the strategy in brackets at the start of an answer; None if there is none."""
    found = _NAMED.match(answer)
    return _INDEX.get(_plain(found[1] or found[2])) if found else None


def noted(strategy: str | None) -> int | None:
    """Position in `STRATEGIES` of what the data notes; None if it is none of them. Of merged turns, the first one's."""
    return _INDEX.get(_plain(strategy.partition(";")[0])) if strategy else None


def confusions(answers: Sequence[str], strategies: Sequence[str | None]) -> Floats:
    """Statistics of each row, (rows, 8 x 9): a 1 at the human answer's strategy and the one that the answer names.

    The last of the 9 columns stands for none. A row without a strategy in the data is empty.
    """
    table = np.zeros((len(answers), COUNT, COUNT + 1))
    for row, (answer, strategy) in enumerate(zip(answers, strategies, strict=True)):
        if (true := noted(strategy)) is not None:
            said = named(answer)
            table[row, true, COUNT if said is None else said] = 1
    return table.reshape(len(answers), -1)


def accuracy(sums: Floats) -> Floats:
    """Answers that name the human answer's strategy, in percent. `sums` are those of `confusions`: (corpora, 72)."""
    table = _tables(sums)
    hits = np.trace(table, axis1=1, axis2=2)
    return ratio(np.column_stack([100 * hits, table.sum(axis=(1, 2))]))


def macro_f1(sums: Floats) -> Floats:
    """Mean F1 in percent of the strategies that occur in human answers or are named (macro average of scikit-learn)."""
    table = _tables(sums)
    hits = np.diagonal(table, axis1=1, axis2=2)
    both = table.sum(axis=2) + table[:, :, :COUNT].sum(axis=1)
    occurs = both > 0
    f1 = 2 * hits / np.maximum(both, 1)
    return ratio(np.column_stack([100 * f1.sum(axis=1), occurs.sum(axis=1)]))


def bias(sums: Floats) -> Floats:
    """Preference bias: the standard deviation of `preferences`. 0 is no bias."""
    occurs, preferred = _occurring(sums), preferences(sums)
    squares = ratio(np.column_stack([(occurs * (preferred - 1) ** 2).sum(axis=1), occurs.sum(axis=1)]))
    return np.asarray(np.sqrt(squares), np.float64)


def preferences(sums: Floats) -> Floats:
    """How strongly each strategy is preferred, (corpora, 8); 1 is neither preferred nor avoided.

    With w[i, j] answers that name i where the human answer has j, each p[i] becomes
    sum_j(w[i, j] p[j] / (p[i] + p[j])) / sum_j(w[j, i] / (p[i] + p[j])), j other than i, one i after the other; then all are
    scaled so that their mean is 1 (Newman 2023, as Kang et al. use it, arXiv 2402.13211). Strategies that no human answer
    has are left out, because theirs would be infinite. One that is named in place of others and never missed takes all.
    """
    occurs = _occurring(sums)
    # From human answer by answer to answer by human answer.
    wins = _tables(sums)[:, :, :COUNT].transpose(0, 2, 1) * occurs[:, :, None]
    wins = wins * (1 - np.eye(COUNT))
    found = occurs.astype(float)
    for _ in range(UPDATES):
        for i in range(COUNT):
            # Two that are 0 say nothing of each other.
            pair = np.maximum(found[:, i, None] + found, TINY)
            more = (wins[:, i, :] * found / pair).sum(axis=1)
            fewer = (wins[:, :, i] / pair).sum(axis=1)
            compared = more + fewer > 0
            found[:, i] = np.where(compared, more / np.maximum(fewer, TINY), found[:, i])
        found *= (occurs.sum(axis=1) / np.maximum(found.sum(axis=1), TINY))[:, None]
    return found


def _tables(sums: Floats) -> Floats:
    """(corpora, human answer's strategy, named one or none)."""
    return sums.reshape(len(sums), COUNT, COUNT + 1)


def _occurring(sums: Floats) -> npt.NDArray[np.bool_]:
    """Whether each strategy is that of a human answer whose answer names one: (corpora, 8)."""
    return np.asarray(_tables(sums)[:, :, :COUNT].sum(axis=2) > 0)
