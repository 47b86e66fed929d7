"""Figures of preference pairs: how alike chosen and rejected are, and how a model ranks pairs it has not learnt from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..contract.rows import Pair, dialogue_of
from .bootstrap import Estimate, bootstrap, per_row, ratio
from .words import reference_words


def likeness(chosen: str, rejected: str) -> float:
    """Words that both have, as the F-measure of their multisets, 0 to 100 (SQuAD's F1, Rajpurkar et al. 2016)."""
    first, second = Counter(reference_words(chosen)), Counter(reference_words(rejected))
    total = first.total() + second.total()
    return 100 * 2 * (first & second).total() / total if total else 100.0


def pair_estimates(pairs: Sequence[Pair]) -> dict[str, Estimate]:
    """The figure of the pairs by name: the mean likeness. It falls to nothing or rises to all when a loop drifts."""
    values = [likeness(pair.chosen, pair.rejected) for pair in pairs]
    return {"pair_similarity": bootstrap(per_row(values), ratio, [dialogue_of(pair.id) for pair in pairs])}


def ranking_estimates(ids: Sequence[str], margins: Sequence[float]) -> dict[str, Estimate]:
    """The figures of held-out pairs by name: their mean reward margin, and the share that the model ranks right.

    `margins` are the pairs' reward margins in the order of `ids`; there is at least one.
    """
    dialogues = [dialogue_of(id_) for id_ in ids]
    right = [100.0 * (margin > 0) for margin in margins]
    return {
        "heldout_margin": bootstrap(per_row(margins), ratio, dialogues),
        "heldout_accuracy": bootstrap(per_row(right), ratio, dialogues),
    }
