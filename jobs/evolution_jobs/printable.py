"""Text of data and of models as a terminal may show it. Pure."""

from __future__ import annotations

import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_OBEYED = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Categories of what a terminal obeys or cannot write: control characters, lone surrogates, line separators."""
_TURNING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""What turns the direction of the text that follows."""


def printable(text: str, kept: str = "") -> str:
    """The text with what a terminal would obey replaced, such as escape sequences. `kept` are characters that stay.

    Unlike `str.isprintable`, joiners stay: Persian words and many emoji have them.
    """
    return "".join(
        each
        if each in kept
        or (unicodedata.category(each) not in _OBEYED and unicodedata.bidirectional(each) not in _TURNING)
        else REPLACEMENT
        for each in text
    )
