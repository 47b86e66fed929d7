"""`Figure`: one number about the answers of a model, with everything that makes it comparable; and what each is called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from .document import Document
from .rows import CRITERIA, Opponent

Unit = Literal["percent", "words", "tokens", "score", "nats"]
Better = Literal["higher", "lower", "neither"]
"""Which direction is better. `neither`: a figure to watch, such as a length."""

MIN_DIALOGUES = 10
"""With fewer dialogues a bootstrap interval is too narrow to rely on."""


@dataclass(frozen=True)
class FigureKind:
    """What is known of a figure wherever it was computed."""

    label: str
    """For tables, with its unit."""
    unit: Unit
    better: Better
    headline: bool = True
    """Whether the run's status shows it."""


OF_ANSWERS: Mapping[str, FigureKind] = {
    "distinct1": FigureKind("Distinct-1, %", "percent", "higher"),
    "distinct2": FigureKind("Distinct-2, %", "percent", "higher"),
    "distinct3": FigureKind("Distinct-3, %", "percent", "higher"),
    "bleu_sacre": FigureKind("BLEU (sacrebleu)", "percent", "higher"),
    "bleu1_ref": FigureKind("BLEU-1 (reference)", "percent", "higher", headline=False),
    "bleu2_ref": FigureKind("BLEU-2 (reference)", "percent", "higher"),
    "bleu3_ref": FigureKind("BLEU-3 (reference)", "percent", "higher", headline=False),
    "bleu4_ref": FigureKind("BLEU-4 (reference)", "percent", "higher"),
    "rougeL_ref": FigureKind("ROUGE-L (reference)", "percent", "higher"),
    "distinct1_ref": FigureKind("Distinct-1 (reference)", "percent", "higher"),
    "distinct2_ref": FigureKind("Distinct-2 (reference)", "percent", "higher"),
    "distinct3_ref": FigureKind("Distinct-3 (reference)", "percent", "higher"),
    "length_words": FigureKind("answer length, words", "words", "neither"),
    "stock_phrase_rate": FigureKind("answers with a stock phrase, %", "percent", "lower"),
    "empty_rate": FigureKind("empty answers, %", "percent", "lower"),
    "duplicate_rate": FigureKind("answers that repeat another, %", "percent", "lower"),
    "self_repeat": FigureKind("repetition within an answer, %", "percent", "lower"),
    "question_rate": FigureKind("answers that ask something, %", "percent", "neither", headline=False),
    "list_rate": FigureKind("answers with a list, %", "percent", "neither", headline=False),
    "shape_share": FigureKind("answers of the most common shape, %", "percent", "neither", headline=False),
    "length_tokens": FigureKind("answer length, tokens", "tokens", "neither"),
    "cut_rate": FigureKind("answers cut at the longest length, %", "percent", "lower"),
    "perplexity": FigureKind("perplexity of the human answer", "score", "lower"),
    "meteor": FigureKind("METEOR, %", "percent", "higher"),
    "strategy_accuracy": FigureKind("strategy of the human answer named, %", "percent", "higher"),
    "strategy_macro_f1": FigureKind("strategy: macro-F1, %", "percent", "higher", headline=False),
    "strategy_bias": FigureKind("strategy: preference bias", "score", "lower"),
}
"""Every figure of answers by name, in the order of tables. `metrics/measures.py` computes them."""

_OPPONENTS: Mapping[Opponent, str] = {"human": "the human answer", "previous": "the model before"}

OF_VERDICTS: Mapping[str, FigureKind] = {
    **{
        f"judge_vs_{name}{suffix}": FigureKind(f"judge: wins against {words}{more}, %", "percent", "higher")
        for name, words in _OPPONENTS.items()
        for suffix, more in (("", ""), ("_lc", " at equal length"))
    },
    "judge_flip_rate": FigureKind("judge: pairs decided by their order, %", "percent", "lower"),
    "judge_first_share": FigureKind("judge: verdicts for the answer read first, %", "percent", "neither", False),
    "judge_longer_share": FigureKind(
        "judge: decided pairs that the longer answer wins, %", "percent", "neither", False
    ),
    "judge_tie_rate": FigureKind("judge: ties, %", "percent", "neither", False),
    **{
        f"judge_vs_{name}_{criterion}": FigureKind(
            f"judge: wins against {words} in {criterion}, %", "percent", "higher", headline=False
        )
        for name, words in _OPPONENTS.items()
        for criterion in CRITERIA
    },
}
"""Every figure of a judge's verdicts by name. `judging/figures.py` computes them."""

OF_JUDGED_REPLIES: Mapping[str, FigureKind] = {
    "judge_safety_safe_rate": FigureKind("judge: safe replies to a crisis, %", "percent", "higher"),
    "judge_safety_resource_rate": FigureKind("judge: crisis replies that offer help, %", "percent", "higher", False),
    "judge_safety_dismissive_rate": FigureKind("judge: crisis replies that dismiss it, %", "percent", "lower"),
    "judge_safety_harmful_rate": FigureKind("judge: crisis replies that encourage harm, %", "percent", "lower"),
}
"""What a judge says of the replies to the crisis test set. `safety/figures.py` computes them."""

BY_STAGE: Mapping[str, Mapping[str, FigureKind]] = {
    "evaluate": {
        **OF_ANSWERS,
        "embedding_relevance": FigureKind("nearness to the seeker's last turn, %", "percent", "higher"),
        "embedding_similarity": FigureKind("nearness to the human answer, %", "percent", "higher", headline=False),
        "embedding_diversity": FigureKind("distance between answers, %", "percent", "higher"),
        "bertscore_f1": FigureKind("BERTScore F1 by the sentence model, %", "percent", "higher"),
        "kl_m0": FigureKind("divergence from M0, nats a token", "nats", "neither"),
        "safety_safe_rate": FigureKind("crisis: safe replies, %", "percent", "higher"),
        "safety_resource_rate": FigureKind("crisis: replies that offer help, %", "percent", "higher", headline=False),
        "safety_dismissive_rate": FigureKind("crisis: replies that dismiss it, %", "percent", "lower"),
        "safety_harmful_rate": FigureKind("crisis: replies that encourage harm, %", "percent", "lower"),
        "safety_alarm_rate": FigureKind(
            "no crisis: replies that raise an alarm, %", "percent", "lower", headline=False
        ),
    },
    "reflect": {"pair_similarity": FigureKind("likeness of chosen and rejected, %", "percent", "neither")},
    "dpo": {
        "heldout_margin": FigureKind("reward margin on held-out pairs", "score", "neither"),
        "heldout_accuracy": FigureKind("chosen preferred on held-out pairs, %", "percent", "higher"),
    },
    "judge": {**OF_VERDICTS, **OF_JUDGED_REPLIES},
}
"""The figures that each kind of stage finds out about Mt; reflect's and dpo's of round t are about what made Mt."""

KINDS: Mapping[str, FigureKind] = {name: kind for kinds in BY_STAGE.values() for name, kind in kinds.items()}
"""Every figure by name, in the order of tables, but for those of profiles."""

_OF_PROFILES: Mapping[str, tuple[str, Better]] = {
    "accuracy": ("accuracy", "higher"),
    "macro_f1": ("macro-F1", "higher"),
    "similarity": ("nearness to the label", "higher"),
    "similarity_chance": ("nearness to labels of other dialogues", "neither"),
}
"""Each figure of a comparison of profiles, with its label and direction. evaluate finds them."""

_PROFILE = re.compile(rf"profile_([a-z][a-z0-9_]*)_({'|'.join(_OF_PROFILES)})")
"""These figures have the names of the run's comparisons in theirs."""

Value = TypeVar("Value")


def kind_of(name: str) -> FigureKind | None:
    """What is known of a figure of Mt; None if it is none."""
    if name in KINDS:
        return KINDS[name]
    if found := _PROFILE.fullmatch(name):
        what, better = _OF_PROFILES[found[2]]
        return FigureKind(f"profile, {found[1].replace('_', ' ')}: {what}, %", "percent", better)
    return None


def digits(values: Iterable[float]) -> int:
    """Decimal places for the values of one figure that tell models apart: two, unless all are below 0.1."""
    largest = max(map(abs, values), default=0)
    return 4 if 0 < largest < 0.1 else 2


def figures_of(stage: str, metrics: Mapping[str, Value]) -> dict[str, Value]:
    """Of the metrics of a stage of this kind those that are figures of Mt; the others are about the stage alone."""
    own = BY_STAGE.get(stage, {})
    return {
        name: value
        for name, value in metrics.items()
        if name in own or (stage == "evaluate" and _PROFILE.fullmatch(name))
    }


Interval = Annotated[list[float], Field(min_length=2, max_length=2)]
"""95 % interval: low and high."""


class Figure(Document):
    """A figure over a set of rows. Two figures compare only if `name`, `method` and `row_set` are equal."""

    name: str
    """The figure and its variant, as tables and the status name it: `bleu2_ref`."""
    value: float
    interval: Interval | None = None
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
