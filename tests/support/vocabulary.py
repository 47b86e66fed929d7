"""Words of which tests draw made-up answers."""

from __future__ import annotations

VOCABULARY = (
    *("you", "could", "tell", "me", "more", "about", "what", "your", "sister", "said"),
    *("that", "day", "and", "how", "it", "felt", "when", "the", "phone", "rang"),
)
