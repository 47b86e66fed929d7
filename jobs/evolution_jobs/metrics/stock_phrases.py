"""Phrases of generic empathy: they fit any conversation, so they say nothing to this person.

They are what arXiv 2505.16610 wants to avoid ("generic empathy"), and a model trained on its own answers drifts towards
them. The list has openings and reassurances that supporters and language models use in any situation. It has no phrase
that makes sense only in the seeker's situation. People use them, too: compare a model's rate with the rate of the human
answers, not with 0.
"""

from __future__ import annotations

import re

STOCK_PHRASES: tuple[str, ...] = (
    # Says that one has listened instead of what was heard.
    "it sounds like",
    "it seems like you are",
    "i hear you",
    "i hear that you",
    # Sympathy that fits any bad event.
    "i am sorry to hear",
    "i am so sorry to hear",
    "i am really sorry to hear",
    "i am sorry that you are",
    "i am sorry you are",
    # Claimed understanding.
    "i understand how",
    "i understand that",
    "i can understand",
    "i can imagine how",
    "that must be",
    "it is understandable",
    "it is completely understandable",
    # Blanket reassurance.
    "it is okay to feel",
    "it is ok to feel",
    "it is normal to feel",
    "you are not alone",
    "i am here for you",
    "i am here to help",
    "i am here to listen",
    "i am here to support",
    "thank you for sharing",
    "thanks for sharing",
    "one step at a time",
    "one day at a time",
)
"""In lower case, with "am", "is" and "are" written out. Texts are converted to that form first."""

_PATTERN = re.compile(r"\b(?:" + "|".join(re.escape(phrase) for phrase in STOCK_PHRASES) + r")\b")
_CONTRACTIONS = (
    (re.compile(r"\bi'?m\b"), "i am"),
    (re.compile(r"\b(it|that)'s\b"), r"\1 is"),
    (re.compile(r"\byou'?re\b"), "you are"),
)


def holds_stock_phrase(text: str) -> bool:
    """Whether a text contains one of the phrases; case, apostrophes, contractions and white space do not matter."""
    plain = " ".join(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())
    for contraction, full in _CONTRACTIONS:
        plain = contraction.sub(full, plain)
    return _PATTERN.search(plain) is not None
