"""Tables of the card: figures, settings, provenance. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evolution_jobs.contract.figures import Figure, digits, kind_of

from .card_words import code, plain, role_words
from .facts import DataSource, Facts

HUB_METRICS = {
    "bleu_sacre": "bleu",
    "rougeL_ref": "rouge",
    "perplexity": "perplexity",
    "meteor": "meteor",
    "bertscore_f1": "bertscore",
}
"""Figures that the hub has a metric for."""


def figure_table(facts: Facts) -> str:
    """The headline figures of the model, of M0 and of the human answers."""
    if not facts.figures.get(facts.model):
        return "There are none: the run has no finished evaluation of this model."
    by_name = {model: {each.name: each for each in figures} for model, figures in facts.figures.items()}
    own = by_name[facts.model]
    before = by_name.get("M0", {}) if facts.model != "M0" else {}
    heads = [facts.model, *(["M0, after SFT"] if before else []), "human answers"]
    rows = [f"| figure | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for name, figure in own.items():
        kind = kind_of(name)
        if kind is None or not kind.headline:
            continue
        found = [figure, *([before.get(name)] if before else [])]
        places = digits(each.value for each in found if each)
        cells = [
            *(_cell(each, places) for each in found),
            "" if figure.human is None else f"{figure.human:z.{places}f}",
        ]
        rows.append(f"| {kind.label} | {' | '.join(cells)} |")
    note = (
        "In brackets: 95 % intervals, with whole dialogues as the unit. Where the intervals of two models overlap widely, the "
        "figures do not show which is better."
    )
    methods = {figure.name: figure.method for figure in own.values() if figure.name in HUB_METRICS}
    how = [f"- {kind.label}: {plain(method)}" for name, method in methods.items() if (kind := kind_of(name))]
    return "\n".join([*rows, "", note, *(["", *how] if how else [])])


def _cell(figure: Figure | None, places: int) -> str:
    if figure is None:
        return ""
    value = f"{figure.value:z.{places}f}"
    if figure.interval is None:
        return value
    return f"{value} [{figure.interval[0]:z.{places}f}, {figure.interval[1]:z.{places}f}]"


def training(facts: Facts) -> str:
    """The data and the settings that decide the result."""
    rows = ["| setting | value |", "| --- | --- |"]
    for stage, settings in facts.settings.items():
        rows += [
            f"| {stage}.{plain(name)} | {plain(str(value))} |" for name, value in _flat(settings) if value is not None
        ]
    pairs = ", ".join(f"round {number}: {count}" for number, count in facts.pairs.items())
    told = [f"Preference pairs: {pairs}." if pairs else ""]
    told += [
        f"{role_words(source)}: {plain(str(source.kept))} kept." for source in facts.data if source.kept is not None
    ]
    return "\n".join([" ".join(filter(None, told)), "", *rows])


LEFT_OUT = ("vllm", "tokenBudget", "checkpointSteps", "engine", "gradientCheckpointing")
"""Settings that do not decide the result."""


def _flat(settings: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        if name in LEFT_OUT:
            continue
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", each) for inner, each in _flat(value))
        else:
            yield name, value


def provenance(facts: Facts) -> str:
    """Keys and digests of the stages on the way to the model, of its data and of its base."""
    lines = [
        "Every stage is named by a digest of everything that decides its result, and its output by its content.",
        "",
        "| stage | key | output |",
        "| --- | --- | --- |",
        *(f"| {plain(step.stage)} | {code(step.key)} | {code(step.digest)} |" for step in facts.steps),
        "",
        *_pins(facts.data),
        f"- base model: {code(facts.base.output.digest)}",
        f"- code: {', '.join(plain(f'{name} {version}') for name, version in facts.code.items())}",
    ]
    return "\n".join(lines)


def _pins(data: Sequence[DataSource]) -> list[str]:
    return [f"- {source.role}: {code(source.uri)}, {code(source.pin)}" for source in data if source.pin]
