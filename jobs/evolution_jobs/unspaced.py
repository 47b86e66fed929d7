"""Words of texts in any script: where a script has no spaces between words, each of its characters counts as a word.

Leak checks, length filters and metrics share this definition. For text without such characters they are what they would be
without this module. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u3005\u3007"
"""Chinese characters, as Chinese and Japanese use them."""
UNSPACED = (
    HAN
    + r"\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese kana
    + r"\u0e00-\u0eff"  # Thai and Lao
    + r"\u1000-\u109f\u1780-\u17ff"  # Burmese and Khmer
)
SCRIPTS = "Chinese, Japanese, Thai, Lao, Burmese and Khmer"
"""The languages of these scripts, for messages."""

WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
"""A word without its punctuation."""

_CHARACTER = re.compile(rf"[{UNSPACED}]")
_HAN = re.compile(rf"[{HAN}]")
_COUNTED = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]*[^\W{UNSPACED}][^\s{UNSPACED}]*")
_PUNCTUATION = r"\u3001-\u3004\u3006\u3008-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_APART = re.compile(rf"([{UNSPACED}{_PUNCTUATION}])")


def count_words(text: str) -> int:
    """Number of words between white space; of scripts without spaces, number of characters without punctuation."""
    return len(_COUNTED.findall(text)) if _CHARACTER.search(text) else len(text.split())


def spaced(text: str) -> str:
    """The text with spaces around each character and punctuation mark of scripts without spaces; else unchanged."""
    return _APART.sub(r" \1 ", text) if _CHARACTER.search(text) else text


def has_unspaced(texts: Iterable[str]) -> bool:
    """Whether any of the texts has characters of such a script."""
    return any(_CHARACTER.search(text) for text in texts)


def mostly_unspaced(texts: Iterable[str]) -> bool:
    """Whether at least half of the words of all texts together are characters of such a script."""
    words = characters = 0
    for text in texts:
        words += count_words(text)
        characters += len(_CHARACTER.findall(text))
    return words > 0 and 2 * characters >= words


def mostly_han(texts: Iterable[str]) -> bool:
    """Whether nine of ten such characters are Chinese ones: in Japanese, half of them are kana."""
    text = "".join(texts)
    return 10 * len(_HAN.findall(text)) >= 9 * len(_CHARACTER.findall(text))
