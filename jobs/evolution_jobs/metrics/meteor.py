"""METEOR (Lavie and Agarwal 2007) as nltk computes it: words match if they are equal, have one stem or are synonyms in WordNet.

WordNet comes with neither nltk nor this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from ..contract.errors import PermanentError

ALPHA, BETA, GAMMA = 0.9, 3.0, 0.5
"""nltk's defaults. They are of 2007: Java METEOR 1.5 has others, so its values are not comparable."""
MISSING = "METEOR needs WordNet, which is not in NLTK_DATA: python -m nltk.downloader wordnet"


def wordnet() -> Any:
    """The reader of WordNet; None if the data is not on this machine."""
    from nltk.corpus import wordnet as reader

    try:
        reader.ensure_loaded()
    except LookupError:
        return None
    return reader


def require_wordnet() -> None:
    """Raise PermanentError `DependencyMissing` if WordNet is not on this machine."""
    if wordnet() is None:
        raise PermanentError("DependencyMissing", f"evaluation.optionalFigures: {MISSING}, or take meteor out")


def meteor(answers: Sequence[Sequence[str]], humans: Sequence[Sequence[str]]) -> list[float]:
    """METEOR of each answer's words against those of the human answer, in percent. WordNet must be there."""
    from nltk.translate.meteor_score import single_meteor_score

    reader = wordnet()
    return [
        100 * single_meteor_score(human, answer, wordnet=reader, alpha=ALPHA, beta=BETA, gamma=GAMMA)
        for answer, human in zip(answers, humans, strict=True)
    ]


def method() -> str:
    """Variant, library and data."""
    return (
        f"mean METEOR (Lavie and Agarwal 2007) by nltk {version('nltk')}: exact, Porter stem, synonyms of WordNet "
        f"{wordnet().get_version()}; alpha {ALPHA}, beta {BETA}, gamma {GAMMA}"
    )
