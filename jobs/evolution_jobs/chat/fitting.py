"""How much of a long chat fits, found without reading all of it. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

CHARACTERS = 8
"""A chat with more characters for each token that fits is most likely too long."""


def first_that_fits(places: int, fits: Callable[[int], bool], whole_first: bool) -> int:
    """The first place (from 0) such that what begins there fits; `places` if none does. What begins later is shorter.

    With `whole_first`, the whole is tried first: right for most chats. Otherwise tries begin at the end and go back in
    steps that double, so the cost follows what fits and not how long the chat is.
    """
    if whole_first and places and fits(0):
        return 0
    too_long, fitting, step = -1, places, 1
    while too_long < 0 < fitting:
        place = max(0, places - step)
        if fits(place):
            fitting, step = place, 2 * step
        else:
            too_long = place
    return bisect_left(range(places), True, lo=too_long + 1, hi=fitting, key=fits)
