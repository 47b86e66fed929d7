"""All figures of a list of answers against the human answers, as `evaluate` and `evolution score` report them."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

import numpy as np

from ..contract.errors import PermanentError
from ..unspaced import SCRIPTS, count_words, has_unspaced, mostly_unspaced
from .bootstrap import Floats, interval, ratio
from .overlap import bleu_of_sums, bleu_ref, bleu_sacre, bleu_statistics, rouge_l
from .stock_phrases import holds_stock_phrase
from .style import style
from .words import reference_words

BAD_INPUT = "ScoreInput"
ENGLISH_ONLY = "stock_phrase_rate"


class Scores(TypedDict):
    """Figures and how they were computed; valid JSON."""

    rows: int
    metrics: dict[str, float]
    """In per cent, except lengths (in words or tokens) and perplexity."""
    intervals: dict[str, list[float]]
    """95 % bootstrap interval [low, high] of the main figures."""
    human: dict[str, float]
    """The reference-free figures of the human answers, for comparison with the model's."""
    methods: dict[str, str]
    """Signature and tokeniser, and what counts as a word: only BLEU figures with equal ones can be compared."""


def score(hypotheses: Sequence[str], references: Sequence[str], groups: Sequence[Hashable] | None = None) -> Scores:
    """Every figure that can be computed from the texts. If the references are in a script without spaces between words,
    `stock_phrase_rate` is left out.

    `groups` names the dialogue of each row, for the intervals (`bootstrap.interval`).

    Raises PermanentError (`ScoreInput`) if the lists are empty or differ in length, or a reference is empty.
    """
    _check(hypotheses, references)
    answers, humans = [[reference_words(text) for text in texts] for texts in (hypotheses, references)]
    rouge = [rouge_l(answer, human) for answer, human in zip(answers, humans, strict=True)]
    sacre, signature = bleu_sacre(hypotheses, references)
    metrics = {
        "bleu2_ref": bleu_ref(answers, humans, 2),
        "bleu4_ref": bleu_ref(answers, humans, 4),
        "rougeL_ref": sum(rouge) / len(rouge),
        "bleu_sacre": sacre,
        **style(hypotheses, answers),
    }
    bleu = np.array([bleu_statistics(answer, human) for answer, human in zip(answers, humans, strict=True)], float)
    scores = Scores(
        rows=len(hypotheses),
        metrics=metrics,
        intervals=intervals(
            {
                "bleu2_ref": (bleu, lambda sums: bleu_of_sums(sums, 2)),
                "bleu4_ref": (bleu, lambda sums: bleu_of_sums(sums, 4)),
                "rougeL_ref": (per_row(rouge), ratio),
                "length_words": (per_row(list(map(count_words, hypotheses))), ratio),
                "stock_phrase_rate": (per_row([100 * holds_stock_phrase(text) for text in hypotheses]), ratio),
            },
            groups,
        ),
        human=style(references, humans),
        methods={
            "reference": f"lower-cased nltk {version('nltk')} word_tokenize; corpus_bleu, smoothing method 3; "
            "ROUGE-L, beta 1.2; Distinct-n without each answer's last n-gram (arXiv 2106.01144, myMetrics.py)",
            "sacrebleu": signature,
        },
    )
    if has_unspaced([*hypotheses, *references]):
        _say_characters(scores, undefined=mostly_unspaced(references))
    return scores


def _say_characters(scores: Scores, *, undefined: bool) -> None:
    """Add to the methods how scripts without spaces are counted; with `undefined`, leave out what only English has."""
    scores["methods"]["words"] = f"each character counts as a word in scripts without spaces ({SCRIPTS})"
    if undefined:
        scores["methods"][ENGLISH_ONLY] = "not defined: its phrases are English"
        for figures in (scores["metrics"], scores["human"], scores["intervals"]):
            figures.pop(ENGLISH_ONLY, None)


def intervals(
    figures: dict[str, tuple[Floats, Callable[[Floats], Floats]]], groups: Sequence[Hashable] | None
) -> dict[str, list[float]]:
    """The interval of each figure (statistics, function of their sums); no interval if there are too few groups."""
    found = {name: interval(statistics, figure, groups) for name, (statistics, figure) in figures.items()}
    return {name: list(bounds) for name, bounds in found.items() if bounds}


def per_row(values: Sequence[float]) -> Floats:
    """Statistics of a mean over rows, for `bootstrap.ratio`: (rows, 2)."""
    return np.column_stack([np.asarray(values, float), np.ones(len(values))])


def score_files(hypotheses: Path, references: Path) -> Scores:
    """`score` over two files, line by line.

    A text file has one answer a line. A `.jsonl` file has one JSON string a line, or one object as in `answers.jsonl` of
    evaluate: hypotheses are read from `answer`, references from `human`, so one such file can be both.

    Raises PermanentError (`ScoreInput`), which names the file and, if there is one, the line.
    """
    return score(_texts(hypotheses, "answer"), _texts(references, "human"))


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references):
        raise PermanentError(
            BAD_INPUT,
            f"{len(hypotheses)} hypotheses but {len(references)} references; give one per row, in the same order",
        )
    if not hypotheses:
        raise PermanentError(BAD_INPUT, "no hypotheses and no references; there is nothing to score")
    for row, reference in enumerate(references, 1):
        if not reference.strip():
            raise PermanentError(BAD_INPUT, f"reference {row} is empty; take the row out of both lists")


def _texts(path: Path, field: str) -> list[str]:
    try:
        lines = path.read_bytes().decode().removesuffix("\n").split("\n")
    except OSError as error:
        raise PermanentError(BAD_INPUT, f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PermanentError(BAD_INPUT, f"{path} is not UTF-8 at byte {error.start}; convert it") from error
    if lines == [""]:
        raise PermanentError(BAD_INPUT, f"{path} is empty")
    if path.suffix != ".jsonl":
        return [line.removesuffix("\r") for line in lines]
    return [_text(line, field, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def _text(line: str, field: str, place: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise PermanentError(BAD_INPUT, f"{place}: not JSON ({error})") from error
    text = row.get(field) if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise PermanentError(BAD_INPUT, f"{place}: expected a string, or an object whose `{field}` is one")
    return text
