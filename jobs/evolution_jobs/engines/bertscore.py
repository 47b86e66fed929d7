"""BERTScore (Zhang et al., ICLR 2020) by the library bert-score, over a sentence model that is loaded already.

The library's `score` would load the model by name, from the hub's newest commit and with weights drawn at random where some
are missing. So its comparison is given our model, and nothing is downloaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from ..contract.errors import PermanentError
from ..libraries import install
from ..metrics.bootstrap import Floats

if TYPE_CHECKING:
    from .sentences import SentenceModel


def require_library() -> None:
    """Raise PermanentError `DependencyMissing` if bert-score, or what it imports, is not installed."""
    try:
        import_module("bert_score.utils")
    except ImportError as error:
        raise PermanentError(
            "DependencyMissing",
            f"evaluation.optionalFigures: bertscore needs the library bert-score ({error}): "
            f"{install('bertscore')}, or take bertscore out",
        ) from error


def f1(answers: Sequence[str], humans: Sequence[str], sentences: SentenceModel) -> Floats:
    """F1 of each answer against the human answer in percent, without idf weights and without a baseline.

    An empty text has 0, as in the library. The library itself is not given any: it fails on them with transformers 5.
    """
    from bert_score.utils import bert_cos_score_idf

    values = np.zeros(len(answers))
    given = [row for row in range(len(answers)) if answers[row].strip() and humans[row].strip()]
    if given:
        scores = bert_cos_score_idf(
            sentences.model,
            [humans[row] for row in given],
            [answers[row] for row in given],
            sentences.tokenizer,
            _weights(sentences),
            device="cpu",
        )
        # Precision, recall and F1 of each row.
        values[given] = 100 * np.asarray(scores)[:, 2]
    return values


def method(sentences: SentenceModel) -> str:
    """The library's signature, and the model that it was given."""
    from bert_score.utils import get_hash

    layers = sentences.model.config.num_hidden_layers
    signature = get_hash("model", layers, False, False, False, bool(sentences.tokenizer.is_fast))
    return f"mean F1 (Zhang et al., ICLR 2020); bert-score {signature}; model: {sentences.source}"


def _weights(sentences: SentenceModel) -> defaultdict[int | None, float]:
    """A token's weight, as in the library's `score`: the marks of a text's start and end do not count."""
    weights = defaultdict[int | None, float](lambda: 1.0)
    weights[sentences.tokenizer.sep_token_id] = weights[sentences.tokenizer.cls_token_id] = 0.0
    return weights
