"""The figures of every model side by side, each with its interval. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolution_jobs.contract.figures import BY_STAGE, KINDS, FigureKind, digits, figures_of, kind_of

from .facts import Facts

SHOWN = (
    *("distinct1", "distinct2", "distinct3", "bleu_sacre", "bleu2_ref", "bleu4_ref", "rougeL_ref", "meteor"),
    *("length_words", "stock_phrase_rate", "perplexity", "strategy_accuracy", "strategy_bias"),
    *("embedding_relevance", "embedding_diversity", "bertscore_f1"),
    *("kl_m0", "pair_similarity", "heldout_margin", "heldout_accuracy"),
    *("safety_safe_rate", "safety_dismissive_rate", "safety_harmful_rate"),
    *("judge_vs_human", "judge_vs_human_lc", "judge_vs_previous", "judge_vs_previous_lc", "judge_flip_rate"),
)
"""Figures of the closing page and of the report's first table in order; those of profiles follow."""

ORDER = {name: place for place, name in enumerate(dict.fromkeys([*SHOWN, *KINDS]))}


@dataclass(frozen=True)
class Value:
    """A figure of one model."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    """A figure of every model."""

    name: str
    kind: FigureKind
    values: Mapping[int, Value]
    """By iteration."""
    human: float | None = None
    """The same figure of the human answers."""

    @property
    def digits(self) -> int:
        """Decimal places of its values."""
        return digits(each.value for each in self.values.values())

    @property
    def first(self) -> bool:
        """Whether it is in the report's first table."""
        return self.name in SHOWN or self.name not in KINDS


@dataclass(frozen=True)
class SetRow:
    """A figure of one named test set."""

    set: str
    unseen: bool
    """Whether the run never trains on this set's data."""
    row: Row


def rows(facts: Facts) -> list[Row]:
    """Every figure of Mt that the run has, in the order of tables."""
    found: dict[str, dict[int, Value]] = {}
    for iteration, (values, intervals) in _by_iteration(facts).items():
        # Of a model that is not trained yet, only its pairs are known. They make no column.
        for name, value in values.items() if values.keys() - BY_STAGE["reflect"].keys() else ():
            found.setdefault(name, {})[iteration] = _value(value, intervals.get(name))
    human = {name: value for scores in facts.scores.values() for name, value in scores.human.items()}
    kinds = {name: kind for name in found if (kind := kind_of(name)) is not None}
    # Figures of profiles have the run's own names, and come last.
    names = sorted(kinds, key=lambda name: (ORDER.get(name, len(ORDER)), name))
    return [Row(name, kinds[name], dict(sorted(found[name].items())), human.get(name)) for name in names]


def by_set(facts: Facts) -> list[SetRow]:
    """The headline figures of each named test set, if there are several."""
    found: dict[tuple[str, str], dict[int, Value]] = {}
    unseen: set[str] = set()
    for iteration, scores in facts.scores.items():
        unseen |= {each.name for each in scores.sets if each.never_trained_on}
        for figure in scores.figures:
            if figure.set and figure.headline:
                place = found.setdefault((figure.set, figure.name), {})
                place[iteration] = _value(figure.value, figure.interval)
    return [
        SetRow(name, name in unseen, Row(figure, kind, dict(sorted(values.items()))))
        for (name, figure), values in found.items()
        if (kind := kind_of(figure)) is not None
    ]


def _by_iteration(facts: Facts) -> dict[int, tuple[dict[str, float], dict[str, Any]]]:
    """By iteration: values and intervals. What a stage left counts more than what the status says."""
    found: dict[int, tuple[dict[str, float], dict[str, Any]]] = {}
    for entry in facts.status.metrics if facts.status else []:
        found[entry.iteration] = (dict(entry.figures), dict(entry.intervals))
    for manifest in facts.manifests.values():
        values, intervals = found.setdefault(manifest.iteration or 0, ({}, {}))
        values |= figures_of(manifest.kind, manifest.metrics)
        intervals |= figures_of(manifest.kind, manifest.intervals)
    for iteration, scores in facts.scores.items():
        values, intervals = found.setdefault(iteration, ({}, {}))
        values |= scores.metrics
        intervals |= scores.intervals
    return dict(sorted(found.items()))


def _value(value: float, interval: Sequence[float] | None) -> Value:
    return Value(float(value), (float(interval[0]), float(interval[1])) if interval else None)
