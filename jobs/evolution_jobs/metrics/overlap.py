"""Similarity of answers to the human answers: BLEU and ROUGE-L as in the reference implementation, and sacrebleu.

The reference implementation is `myMetrics.py` of the ESConv authors' repository (Liu et al., ACL 2021,
arXiv 2106.01144), which arXiv 2505.16610 follows. All figures are x100.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from nltk.translate.bleu_score import modified_precision
from sacrebleu.metrics import BLEU

from ..unspaced import mostly_han, mostly_unspaced

Words = Sequence[str]
Floats = npt.NDArray[np.float64]

ORDERS = 4
"""Longest n-gram of BLEU."""
ROUGE_BETA = 1.2
"""Weight of recall against precision in ROUGE-L."""


def rouge_l(hypothesis: Words, reference: Words) -> float:
    """ROUGE-L's F-measure of one answer, beta 1.2; 0 to 100, and 0 if either is empty."""
    common = _longest_common_subsequence(hypothesis, reference)
    if not common:
        return 0.0
    precision, recall = common / len(hypothesis), common / len(reference)
    return 100 * (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def bleu_sacre(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Corpus BLEU of the plain texts by sacrebleu (0 to 100), and the signature that makes it comparable.

    The references decide the tokeniser, so it is the same for every model: `13a`, or for scripts without spaces `zh` if
    they are Chinese and else `char`.
    """
    metric = _sacrebleu(references)
    return float(metric.corpus_score(list(hypotheses), [list(references)]).score), str(metric.get_signature())


def sacre_words(texts: Sequence[str], references: Sequence[str]) -> list[list[str]]:
    """The words of the texts by sacrebleu's tokeniser, which `references` decide as in `bleu_sacre`."""
    tokenise = _sacrebleu(references).tokenizer
    return [tokenise(text.rstrip()).split() for text in texts]


def _sacrebleu(references: Sequence[str]) -> BLEU:
    tokenise = ("zh" if mostly_han(references) else "char") if mostly_unspaced(references) else None
    # `force`: texts of a data set may end in a separate period, about which sacrebleu otherwise warns.
    return BLEU(force=True, tokenize=tokenise)


def bleu_statistics(hypothesis: Words, reference: Words) -> list[int]:
    """The numbers that corpus BLEU adds up over answers: matches of each order, n-grams of each order, both lengths (10)."""
    precisions = [modified_precision([reference], hypothesis, order) for order in range(1, ORDERS + 1)]
    return [
        *(precision.numerator for precision in precisions),
        *(precision.denominator for precision in precisions),
        len(hypothesis),
        len(reference),
    ]


def bleu_of_sums(sums: Floats, order: int) -> Floats:
    """Corpus BLEU up to n-grams of `order`, with NIST smoothing (method 3), from summed statistics of many corpora.

    (corpora, 10) to (corpora,), each 0 to 100.
    """
    matches, totals = sums[:, :order], sums[:, ORDERS : ORDERS + order]
    lengths, reference_lengths = sums[:, -2], sums[:, -1]
    misses = matches == 0
    # Method 3: the k-th order without a match counts 1 / 2^k matches.
    precisions = np.where(misses, 0.5 ** np.cumsum(misses, axis=1), matches) / np.maximum(totals, 1)
    brevity = np.exp(np.minimum(0, 1 - reference_lengths / np.maximum(lengths, 1)))
    score = 100 * brevity * np.exp(np.log(precisions).mean(axis=1))
    return np.where(misses[:, 0], 0.0, score)


def sacre_statistics(hypothesis: Words, reference: Words) -> list[int]:
    """As `bleu_statistics`; an answer shorter than n words has no n-gram, where NLTK counts one."""
    statistics = bleu_statistics(hypothesis, reference)
    totals = [max(0, len(hypothesis) - order) for order in range(ORDERS)]
    return [*statistics[:ORDERS], *totals, *statistics[2 * ORDERS :]]


def sacre_of_sums(sums: Floats) -> Floats:
    """`bleu_sacre` from summed statistics of many corpora. It is 0 for a corpus without any 4-gram, as sacrebleu has it."""
    return np.where(sums[:, 2 * ORDERS - 1] == 0, 0.0, bleu_of_sums(sums, ORDERS))


def _longest_common_subsequence(first: Words, second: Words) -> int:
    previous = [0] * (len(second) + 1)
    for word in first:
        current = [0]
        for position, other in enumerate(second):
            current.append(previous[position] + 1 if word == other else max(previous[position + 1], current[-1]))
        previous = current
    return previous[-1]
