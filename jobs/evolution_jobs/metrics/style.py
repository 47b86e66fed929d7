"""Figures of answers without a reference: diversity, length, stock phrases, repetition.

They show the signs of failing self-evolution that arXiv 2505.16610 names: stock phrases, verbosity, and answers that
become alike. Distinct-n depends on the length: with the same vocabulary, longer answers have a lower Distinct-n.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..unspaced import count_words
from .stock_phrases import holds_stock_phrase

Words = Sequence[str]

REPEAT_ORDER = 4
"""n-gram length of `self_repeat`."""


def style(texts: Sequence[str], words: Sequence[Words]) -> dict[str, float]:
    """Every figure of this module over a non-empty list of texts and their `reference_words`.

    In per cent, except `length_words`, the mean of `count_words`.
    """
    figures = {f"distinct{order}": distinct(words, order) for order in (1, 2, 3)}
    figures |= {f"distinct{order}_ref": distinct_ref(words, order) for order in (1, 2, 3)}
    return figures | {
        "length_words": sum(map(count_words, texts)) / len(texts),
        "stock_phrase_rate": 100 * sum(map(holds_stock_phrase, texts)) / len(texts),
        "empty_rate": 100 * sum(not text.strip() for text in texts) / len(texts),
        "duplicate_rate": duplicate_rate(texts),
        "self_repeat": sum(map(self_repeat, words)) / len(texts),
    }


def distinct(answers: Iterable[Words], order: int) -> float:
    """Distinct-n over all answers together (Li et al., NAACL 2016): different n-grams / n-grams, x100; 0 if none."""
    return _distinct(answers, order, dropped=0)


def distinct_ref(answers: Iterable[Words], order: int) -> float:
    """Distinct-n as in the reference implementation, x100: the last n-gram of each answer is left out.

    Its loop ends one position early, so an answer of exactly n words is not counted at all, and a closing period never
    counts in Distinct-1. Published ESConv figures have this error; `distinct` does not.
    """
    return _distinct(answers, order, dropped=1)


def _distinct(answers: Iterable[Words], order: int, dropped: int) -> float:
    seen: set[tuple[str, ...]] = set()
    total = 0
    for words in answers:
        ngrams = _ngrams(words, order)
        kept = ngrams[: len(ngrams) - dropped]
        seen.update(kept)
        total += len(kept)
    return 100 * len(seen) / total if total else 0.0


def self_repeat(words: Words) -> float:
    """Share of an answer's 4-grams that repeat an earlier one of it (seq-rep-4, Welleck et al., ICLR 2020), in per cent."""
    ngrams = _ngrams(words, REPEAT_ORDER)
    return 100 * (1 - len(set(ngrams)) / len(ngrams)) if ngrams else 0.0


def duplicate_rate(texts: Sequence[str]) -> float:
    """Share of the answers that repeat an earlier answer, apart from case and white space, in per cent."""
    return 100 * (1 - len({" ".join(text.lower().split()) for text in texts}) / len(texts))


def _ngrams(words: Words, order: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]
