"""How every figure of answers is computed. What each is called, and which direction is better: `contract.figures.KINDS`.

`score` reports them for one model, and `compare` their differences between models on the same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Protocol

import numpy as np

from ..contract.figures import KINDS, FigureKind
from ..unspaced import count_words, mostly_unspaced
from . import meteor, strategies
from .answered import Answered
from .bootstrap import PERCENT, Estimate, Floats, bootstrap, jackknife, per_row, ratio
from .overlap import bleu_of_sums, rouge_l, sacre_of_sums, sacre_statistics, sacre_words
from .stock_phrases import holds_stock_phrase
from .style import asks, holds_list, ngrams, normalised, self_repeat, shape

REFERENCE = f"lower-cased nltk {version('nltk')} word_tokenize"
REFERENCE_CODE = "as myMetrics.py of arXiv 2106.01144"


class Estimator(Protocol):
    """How a figure is computed."""

    def __call__(self, rows: Answered) -> Estimate: ...


@dataclass(frozen=True)
class Measure:
    """A figure that can be computed from answers."""

    name: str
    method: Callable[[Answered], str]
    """What makes two values of it comparable; for BLEU of sacrebleu, its signature."""
    compute: Estimator
    reference_free: bool = False
    """Whether the human answers have this figure, too."""
    lacks: Callable[[Answered], str] = lambda _: ""
    """What keeps it from being computed over the rows, in words; empty if nothing does."""
    usable: Callable[[Answered], Sequence[int]] | None = None
    """Positions of the rows that it is computed from; None for all rows."""
    apart: Callable[[Answered, Answered], str] = lambda *_: ""
    """Why its values of two models cannot be compared on the same contexts, in words; empty if they can."""
    on_request: bool = False
    """Whether it is computed only where it is asked for by name."""
    optional: bool = False
    """Whether most runs do not have it. A comparison that was not asked for it does not say then that it is missing."""

    @property
    def kind(self) -> FigureKind:
        """Its label, unit and direction."""
        return KINDS[self.name]

    def defined(self, rows: Answered) -> bool:
        """Whether it can be computed over the rows."""
        return not self.lacks(rows)

    def used(self, rows: Answered, *others: Answered) -> Answered:
        """The rows that it is computed from. `others` are other models' answers to the same contexts: as differences are
        paired, only rows count that are usable in all.
        """
        if self.usable is None:
            return rows
        positions = set.intersection(*(set(self.usable(each)) for each in (rows, *others)))
        return rows if len(positions) == len(rows) else rows.only(sorted(positions))

    def estimate(self, rows: Answered) -> Estimate:
        """The figure over these rows. It is computed once: a report, its signatures and a comparison ask for the same."""
        if self.name not in rows.estimates:
            rows.estimates[self.name] = self.compute(self.used(rows))
        return rows.estimates[self.name]


def _mean(value: Callable[[str], float]) -> Estimator:
    return lambda rows: bootstrap(per_row([value(text) for text in rows.answers]), ratio, rows.dialogues)


def _bleu(order: int, rows: Answered) -> Estimate:
    return bootstrap(rows.bleu, partial(bleu_of_sums, order=order), rows.dialogues)


def _bleu_sacre(rows: Answered) -> Estimate:
    answers, humans = (sacre_words(texts, rows.humans) for texts in (rows.answers, rows.humans))
    sums = np.array([sacre_statistics(*pair) for pair in zip(answers, humans, strict=True)], float)
    estimate = bootstrap(sums, sacre_of_sums, rows.dialogues)
    # The library's own value: it is what the signature stands for.
    return replace(estimate, value=rows.sacre[0])


def _rouge(rows: Answered) -> Estimate:
    values = [rouge_l(answer, human) for answer, human in zip(rows.words, rows.human_words, strict=True)]
    return bootstrap(per_row(values), ratio, rows.dialogues)


def _distinct(order: int, dropped: int, rows: Answered) -> Estimate:
    items = [ngrams(words, order, dropped) for words in rows.words]
    return jackknife(items, lambda distinct, total: 100 * distinct / np.maximum(total, 1), rows.dialogues, PERCENT)


def _duplicates(rows: Answered) -> Estimate:
    texts = [[normalised(text)] for text in rows.answers]
    return jackknife(
        texts, lambda distinct, total: 100 * (1 - distinct / np.maximum(total, 1)), rows.dialogues, PERCENT
    )


def _whole(rows: Answered) -> list[int]:
    """An answer that is cut in its first sentence has no shape; many would have the same one."""
    return [row for row in range(len(rows)) if not (rows.cut and rows.cut[row])]


def _shape(rows: Answered) -> Estimate:
    shapes = [shape(text) for text in rows.answers]
    most, _ = Counter(shapes).most_common(1)[0]
    return bootstrap(per_row([100 * (each == most) for each in shapes]), ratio, rows.dialogues)


def _self_repeat(rows: Answered) -> Estimate:
    return bootstrap(per_row([self_repeat(words) for words in rows.words]), ratio, rows.dialogues)


def _tokens(rows: Answered) -> Estimate:
    return bootstrap(per_row(rows.tokens or []), ratio, rows.dialogues)


def _cut(rows: Answered) -> Estimate:
    return bootstrap(per_row([100 * cut for cut in rows.cut or []]), ratio, rows.dialogues)


def _scored(rows: Answered) -> list[int]:
    return [row for row, likelihood in enumerate(rows.likelihoods or []) if likelihood is not None]


def _perplexity(rows: Answered) -> Estimate:
    # All rows are `_scored`: a resample of dialogues without a likelihood would have no perplexity.
    sums = np.array([each for each in rows.likelihoods or [] if each is not None], float)
    return bootstrap(sums, lambda sums: np.exp(ratio(sums)), rows.dialogues)


def _tokenisers_apart(one: Answered, other: Answered) -> str:
    """One text has different numbers of tokens in different tokenisers, so neither lengths nor likelihoods a token compare."""
    pairs = zip(one.likelihoods or [], other.likelihoods or [], strict=True)
    differ = sum(first is not None and second is not None and first[1] != second[1] for first, second in pairs)
    words = "have different tokenisers: the numbers of tokens differ for"
    return f"{words} {differ} human answer{'s' * (differ > 1)}" if differ else ""


def _likelihoods_apart(one: Answered, other: Answered) -> str:
    if words := _tokenisers_apart(one, other):
        return words
    pairs = zip(one.likelihoods or [], other.likelihoods or [], strict=True)
    differ = sum((first is None) != (second is None) for first, second in pairs)
    words = f"{differ} {'have' if differ > 1 else 'has'} one under one model only"
    return f"have likelihoods of different human answers: {words}" if differ else ""


def _meteor(rows: Answered) -> Estimate:
    return bootstrap(per_row(meteor.meteor(rows.words, rows.human_words)), ratio, rows.dialogues)


def _noted(rows: Answered) -> list[int]:
    return [row for row, each in enumerate(rows.strategies or []) if strategies.noted(each) is not None]


def _without_strategies(rows: Answered) -> str:
    noted = _noted(rows)
    if not noted:
        return "no human answer has one of ESConv's strategies"
    naming = sum(strategies.named(rows.answers[row]) is not None for row in noted)
    few = naming < strategies.NAMED_SHARE * len(noted)
    return f"{naming} of {len(noted)} answers begin with a strategy in brackets, fewer than half" if few else ""


def _strategy(figure: Callable[[Floats], Floats], rows: Answered) -> Estimate:
    return bootstrap(strategies.confusions(rows.answers, rows.strategies or []), figure, rows.dialogues)


def _say(text: str) -> Callable[[Answered], str]:
    return lambda _: text


_BLEU = f"corpus BLEU, smoothing method 3; {REFERENCE}; {REFERENCE_CODE}"
_TOKENS = _say("tokens of the model, the end-of-turn token included")

MEASURES: tuple[Measure, ...] = (
    *(
        Measure(
            f"distinct{n}",
            _say(f"different {n}-grams of all answers together / {n}-grams (Li et al., NAACL 2016); {REFERENCE}"),
            partial(_distinct, n, 0),
            reference_free=True,
        )
        for n in (1, 2, 3)
    ),
    Measure("bleu_sacre", lambda rows: rows.sacre[1], _bleu_sacre),
    *(Measure(f"bleu{n}_ref", _say(_BLEU), partial(_bleu, n)) for n in (1, 2, 3, 4)),
    Measure("rougeL_ref", _say(f"mean F-measure, beta 1.2; {REFERENCE}; {REFERENCE_CODE}"), _rouge),
    *(
        Measure(
            f"distinct{n}_ref",
            _say(f"without each answer's last {n}-gram; {REFERENCE}; {REFERENCE_CODE}"),
            partial(_distinct, n, 1),
            reference_free=True,
        )
        for n in (1, 2, 3)
    ),
    Measure("length_words", _say("words between white space"), _mean(count_words), reference_free=True),
    Measure(
        "stock_phrase_rate",
        _say("the list of metrics/stock_phrases.py"),
        _mean(lambda text: 100 * holds_stock_phrase(text)),
        reference_free=True,
        lacks=lambda rows: "its phrases are English" if mostly_unspaced(rows.humans) else "",
    ),
    Measure(
        "empty_rate",
        _say("answers of white space alone"),
        _mean(lambda text: 100 * (not text.strip())),
        reference_free=True,
    ),
    Measure("duplicate_rate", _say("apart from case and white space"), _duplicates, reference_free=True),
    Measure(
        "self_repeat",
        _say(f"4-grams that repeat an earlier one of the answer (seq-rep-4, Welleck et al., ICLR 2020); {REFERENCE}"),
        _self_repeat,
        reference_free=True,
    ),
    Measure(
        "question_rate",
        _say("a sentence that ends with a question mark"),
        _mean(lambda text: 100 * asks(text)),
        reference_free=True,
    ),
    Measure(
        "list_rate",
        _say("two lines that begin with a bullet or a number"),
        _mean(lambda text: 100 * holds_list(text)),
        reference_free=True,
    ),
    Measure(
        "shape_share",
        _say("shape: the sequence of statements and questions; answers that were cut off do not count"),
        _shape,
        reference_free=True,
        lacks=lambda rows: "" if _whole(rows) else "all answers were cut off",
        usable=_whole,
    ),
    Measure(
        "length_tokens",
        _TOKENS,
        _tokens,
        lacks=lambda rows: "the tokens of the answers are not known" if rows.tokens is None else "",
        apart=_tokenisers_apart,
    ),
    Measure(
        "cut_rate",
        _say("answers without an end-of-turn token"),
        _cut,
        lacks=lambda rows: "which answers were cut off is not known" if rows.cut is None else "",
    ),
    Measure(
        "perplexity",
        _TOKENS,
        _perplexity,
        lacks=lambda rows: "" if any(rows.likelihoods or []) else "no human answer has a likelihood",
        usable=_scored,
        apart=_likelihoods_apart,
    ),
    Measure(
        "meteor",
        lambda _: f"{meteor.method()}; {REFERENCE}",
        _meteor,
        lacks=lambda _: meteor.MISSING if meteor.wordnet() is None else "",
        on_request=True,
    ),
    *(
        Measure(
            f"strategy_{name}",
            _say(method),
            partial(_strategy, figure),
            lacks=_without_strategies,
            usable=_noted,
            optional=True,
        )
        for name, method, figure in (
            ("accuracy", strategies.ACCURACY, strategies.accuracy),
            ("macro_f1", strategies.MACRO_F1, strategies.macro_f1),
            ("bias", strategies.BIAS, strategies.bias),
        )
    ),
)
"""In the order of `KINDS`."""

BY_NAME = {measure.name: measure for measure in MEASURES}
