"""Differences between models that answered the same contexts: paired, with intervals, corrected for their number. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..contract.document import Document
from ..contract.errors import PermanentError
from ..contract.figures import MIN_DIALOGUES, Better, Unit
from ..contract.rows import Answer
from .answered import Answered
from .bootstrap import Estimate, holm
from .measures import BY_NAME, MEASURES, Measure

LEVEL = 0.05
"""Chance of any false difference among the figures of one model against the baseline."""


class Difference(Document):
    """A figure of one model against the same figure of the baseline, on the same rows."""

    name: str
    label: str
    unit: Unit
    better: Better
    model: str
    baseline: str
    value: float
    baseline_value: float
    difference: float
    """`value` - `baseline_value`."""
    interval: list[float] | None = None
    """95 % interval [low, high] of the difference, with dialogues as the unit; unset if there are fewer than two."""
    p: float | None = None
    """Two-sided p-value of the difference."""
    p_holm: float | None = None
    """The same, corrected for the number of figures of this model (Holm 1979)."""
    verdict: str
    """What that means, in words."""


class Comparison(Document):
    """All figures of several models, side by side on the same rows."""

    rows: int
    dialogues: int
    row_set: str
    """Digest of the rows' ids and human answers."""
    left_out: dict[str, int]
    """By model: rows that some other model has not answered."""
    not_compared: dict[str, str]
    """By figure that is left out: why, in words."""
    methods: dict[str, str]
    """By figure: how it is computed."""
    rows_of: dict[str, int]
    """By figure: rows that it is computed from. Perplexity needs a likelihood, a shape an answer that was not cut off."""
    values: dict[str, dict[str, float]]
    """By model, then by figure."""
    differences: list[Difference]
    """Of each model but the first, which is the baseline."""


def compare(models: Mapping[str, Sequence[Answer]], names: Sequence[str] | None = None) -> Comparison:
    """Compare each model with the first one. `names` are the figures; by default those that a run's status shows.

    Raises PermanentError `CompareInput` if there are fewer than two models, a figure is unknown, no figure can be compared,
    the models have no row in common, or two of them have different human answers or dialogues for one context.
    """
    if len(models) < 2:
        raise PermanentError("CompareInput", "there is one model only: name a second run or answers.jsonl")
    chosen = _chosen(names)
    common = _common(models)
    rows = {model: Answered.of([by_id[id_] for id_ in common]) for model, by_id in _by_id(models).items()}
    if names is None:
        chosen = [each for each in chosen if not each.optional or any(each.defined(of_one) for of_one in rows.values())]
    not_compared = {measure.name: words for measure in chosen if (words := _obstacle(measure, rows))}
    kept = [measure for measure in chosen if measure.name not in not_compared]
    if not kept:
        raise PermanentError(
            "CompareInput",
            f"no figure can be compared: {'; '.join(f'{name}: {words}' for name, words in not_compared.items())}",
        )
    used = {each.name: {model: each.used(rows[model], *rows.values()) for model in models} for each in kept}
    estimates = {model: {each.name: each.estimate(used[each.name][model]) for each in kept} for model in models}
    baseline, *others = models
    first = rows[baseline]
    return Comparison(
        rows=len(common),
        dialogues=len(set(first.dialogues or [])),
        row_set=first.row_set,
        left_out={model: len(answers) - len(common) for model, answers in models.items()},
        not_compared=not_compared,
        methods={measure.name: measure.method(first) for measure in kept},
        rows_of={measure.name: len(used[measure.name][baseline]) for measure in kept},
        values={model: {name: each.value for name, each in found.items()} for model, found in estimates.items()},
        differences=[
            difference
            for model in others
            for difference in _differences(kept, model, baseline, estimates[model], estimates[baseline])
        ],
    )


def _chosen(names: Sequence[str] | None) -> Sequence[Measure]:
    if names is None:
        return [measure for measure in MEASURES if measure.kind.headline and not measure.on_request]
    if unknown := [name for name in names if name not in BY_NAME]:
        raise PermanentError("CompareInput", f"figure {unknown[0]!r} is not one of {', '.join(sorted(BY_NAME))}")
    # A figure that is named twice would count twice in the correction for their number.
    return [BY_NAME[name] for name in dict.fromkeys(names)]


def _by_id(models: Mapping[str, Sequence[Answer]]) -> dict[str, dict[str, Answer]]:
    return {model: {answer.id: answer for answer in answers} for model, answers in models.items()}


def _common(models: Mapping[str, Sequence[Answer]]) -> list[str]:
    """Ids of the contexts that all models answered, in the first model's order."""
    (baseline, first), *others = _by_id(models).items()
    common = [id_ for id_ in first if all(id_ in rows for _, rows in others)]
    if not common:
        raise PermanentError(
            "CompareInput", f"{', '.join(models)}: no context was answered by all; compare runs with the same data.test"
        )
    for model, rows in others:
        for id_ in common:
            if apart := _apart(first[id_], rows[id_]):
                raise PermanentError(
                    "CompareInput", f"context {id_!r}: {baseline} and {model} {apart}, so their test data differ"
                )
    return common


def _apart(first: Answer, other: Answer) -> str:
    """How the same context differs between two models; empty if it does not."""
    if first.human != other.human:
        return "have different human answers"
    # Differences are paired by dialogue, so a dialogue must have the same rows in both.
    return "name different dialogues" if first.dialogue != other.dialogue else ""


def _obstacle(measure: Measure, rows: Mapping[str, Answered]) -> str:
    """Why a figure of these models cannot be compared; empty if it can."""
    (baseline, first), *others = rows.items()
    for model, each in rows.items():
        if words := measure.lacks(each):
            return f"{model}: {words}"
    for model, each in others:
        if words := measure.apart(first, each):
            return f"{baseline} and {model} {words}"
    return "" if len(measure.used(first, *rows.values())) else "no context has what it needs in all models"


def _differences(
    kept: Sequence[Measure], model: str, baseline: str, ours: Mapping[str, Estimate], theirs: Mapping[str, Estimate]
) -> list[Difference]:
    differences = [ours[measure.name].minus(theirs[measure.name]) for measure in kept]
    p_values = [each.p_value() for each in differences]
    return [
        Difference(
            name=measure.name,
            label=measure.kind.label,
            unit=measure.kind.unit,
            better=measure.kind.better,
            model=model,
            baseline=baseline,
            value=ours[measure.name].value,
            baseline_value=theirs[measure.name].value,
            difference=difference.value,
            interval=list(bounds) if (bounds := difference.interval()) else None,
            p=p,
            p_holm=corrected,
            verdict=verdict(difference, measure.kind.better, corrected),
        )
        for measure, difference, p, corrected in zip(kept, differences, p_values, _corrected(p_values), strict=True)
    ]


def _corrected(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number. None stays: a figure over one dialogue has none."""
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]


def verdict(difference: Estimate, better: Better, corrected: float | None) -> str:
    """What a difference means, in words: never that two models are equal, at most that no difference is shown."""
    bounds = difference.interval()
    if bounds is None or corrected is None or difference.groups < MIN_DIALOGUES:
        return "too few dialogues to say"
    if bounds[0] <= 0 <= bounds[1]:
        return "the interval of the difference includes zero"
    if corrected >= LEVEL:
        return "not shown, once corrected for the number of figures"
    if better == "neither":
        return "higher" if difference.value > 0 else "lower"
    return "better" if (difference.value > 0) == (better == "higher") else "worse"
