"""The model card: front matter for the hub, and the page. Pure: facts in, text out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from evolution_jobs.contract.figures import KINDS

from .card_tables import HUB_METRICS, figure_table, provenance, training
from .card_words import LEARNT, base_words, code, plain, role_words, rounds_words
from .facts import DataSource, Facts
from .licences import NON_COMMERCIAL, UNKNOWN, Licence, strictest
from .usage import usage

LIMITS = (
    "It is not a therapist and no medical device. It must not be the only thing that a person in distress can turn to.",
    "It can be wrong, cold or harmful, and it does not know when it is. Nobody has shown that it is safe for people in crisis.",
    "In danger, call your local emergency number. https://findahelpline.com lists free helplines by country.",
)


def licence_of(facts: Facts) -> Licence:
    """The licence of the model: that of its base and of the data that reached its weights."""
    return strictest([facts.base_licence, *(source.licence for source in facts.trained_on)])


def metadata(facts: Facts, *, merged: bool) -> dict[str, Any]:
    """The fields of the card's front matter, as `ModelCardData` takes them, without the evaluation results."""
    licence = licence_of(facts)
    hubs = [source.hub for source in facts.trained_on if source.hub]
    return {
        "base_model": facts.base_name,
        "base_model_relation": ("finetune" if merged else "adapter") if facts.base_name else None,
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "text-generation",
        "license": licence.license,
        "license_name": licence.name,
        "datasets": list(dict.fromkeys(hubs)) or None,
        "tags": [
            "evolution-operator",
            "emotional-support",
            *(["dpo"] if facts.iteration else []),
            *([] if merged else ["lora"]),
        ],
    }


def evaluations(facts: Facts) -> list[dict[str, Any]]:
    """Fields of `EvalResult` for the figures that the hub has a metric for."""
    tests = list(dict.fromkeys(source.uri for source in facts.data if source.role == "test"))
    name = ", ".join(tests) or "validation dialogues of the run"
    return [
        {
            "task_type": "text-generation",
            "dataset_type": tests[0].removeprefix("hf://") if len(tests) == 1 and "://" in tests[0] else "custom",
            "dataset_name": name,
            "metric_type": HUB_METRICS[figure.name],
            "metric_name": KINDS[figure.name].label,
            "metric_value": round(figure.value, 4),
        }
        for figure in facts.figures.get(facts.model, [])
        if figure.name in HUB_METRICS
    ]


def page(facts: Facts, *, merged: bool, rounding: str | None = None) -> str:
    """The card below its front matter. `rounding` is what merging has cost, as a sentence."""
    parts = [
        f"# {plain(facts.run)} {plain(facts.model)}",
        _summary(facts, merged),
        "## Licence",
        _licences(facts),
        "## Use",
        usage(facts, merged=merged, rounding=rounding),
        "## Limits",
        "\n".join(f"- {line}" for line in (*LIMITS, *_own_limits(facts))),
        "## Figures",
        figure_table(facts),
        "## Training",
        training(facts),
        "## Provenance",
        provenance(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(facts: Facts, merged: bool) -> str:
    what = "The merged model" if merged else "A LoRA adapter"
    return (
        f"{what} of {base_words(facts)}, {rounds_words(facts)}. Made by "
        f"evolution-operator {plain(facts.code.get('evolution-operator', ''))}."
    ).replace(" .", ".")


def _licences(facts: Facts) -> str:
    licence = licence_of(facts)
    named = [f"| base model | {base_words(facts)} | {_said(facts.base_licence)} |"]
    named += [f"| {role_words(source)} | {code(source.uri)} | {_said(source.licence)} |" for source in facts.data]
    lines = [
        f"**{plain(licence.words)}.** {_meaning(facts, licence)}",
        "",
        "| what | where | licence |",
        "| --- | --- | --- |",
    ]
    return "\n".join([*lines, *named])


def _meaning(facts: Facts, licence: Licence) -> str:
    bound = [source for source in facts.trained_on if source.licence in NON_COMMERCIAL]
    sentences = []
    if bound:
        names = ", ".join(dict.fromkeys(_data_name(source) for source in bound))
        sentences.append(f"It was trained on {names}, which may not be used commercially. Neither may this model.")
    if UNKNOWN in licence.words or UNKNOWN in (facts.base_licence, *(source.licence for source in facts.data)):
        sentences.append(
            "The licence of a part is not known to whoever made this card: state it before you share the model."
        )
    if not sentences:
        sentences.append("It is that of the base model and of the data that it was trained on.")
    return " ".join(sentences)


def _data_name(source: DataSource) -> str:
    return f"ESConv ({source.licence})" if source.layout == "esconv" else f"{plain(source.uri)} ({source.licence})"


def _said(licence: str) -> str:
    return f"{licence}: state it" if licence == UNKNOWN else plain(licence)


def _own_limits(facts: Facts) -> Iterable[str]:
    learnt = dict.fromkeys(LEARNT[source] for source in facts.sources if source in LEARNT)
    yield f"It has learnt from {' and from '.join(('dialogues', *learnt))}, with their biases and mistakes."
    if facts.unread:
        yield f"{' and '.join(map(plain, facts.unread))} could not be read, so figures are missing here."
    if not facts.rows:
        if not facts.unread:
            yield "It was not evaluated."
        return
    yield f"The figures are of {facts.rows} held-out contexts. So few say little about a model."
    if not facts.safety:
        yield "Nobody has looked at how it answers people in crisis (`evaluation.safety` was off)."
    else:
        yield "The crisis test set is small, open and English, and rules judge the replies: it shows large faults only."
    if not facts.judge:
        yield "No person and no other model has compared its answers: the figures count words."
