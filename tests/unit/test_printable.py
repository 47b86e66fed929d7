"""Text of data and models on a terminal: what it would obey is replaced, what it shows stays."""

from __future__ import annotations

import pytest
from evolution_jobs.printable import REPLACEMENT, printable


@pytest.mark.parametrize(
    "obeyed",
    ["\x1b", "\0", "\x7f", "\x9b", "\r", "\n", "\t", "\u2028", "\u202e", "\u2066", "\ud800"],
)
def test_what_a_terminal_would_obey_is_replaced(obeyed: str) -> None:
    assert printable(f"a{obeyed}b") == f"a{REPLACEMENT}b"


@pytest.mark.parametrize(
    "shown", ["It's 5 €.", "n\u0303", "می\u200cشود", "👩\u200d🚀", "\u200fשלום", "我很难过。", "\u00a0"]
)
def test_what_it_shows_stays(shown: str) -> None:
    assert printable(shown) == shown


def test_line_ends_may_stay() -> None:
    assert printable("a\nb\x1b", kept="\n") == f"a\nb{REPLACEMENT}"
