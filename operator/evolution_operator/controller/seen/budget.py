"""One small budget of calls that all runs share, so that many runs in trouble cost the API server no more than one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LONGEST_WAIT = 30.0
"""Seconds after which it is worth asking again at the latest: who was ahead may have left."""


class Budget:
    """One call a `spacing`, whoever makes it. Thread-safe.

    Args:
        spacing: seconds between two calls.
        clock: monotonic seconds.
    """

    def __init__(self, spacing: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._spacing = spacing
        self._clock = clock
        self._lock = threading.Lock()
        self._next = float("-inf")
        self._waiting: dict[str, float] = {}
        """Who waits for a turn, in that order, and when each asked last."""

    def take(self, who: str) -> float:
        """0 where the call may be made now; else the seconds until it is this one's turn.

        Turns come in the order of asking. One whose turn has come and who does not ask holds the next up for a
        `spacing` at most.
        """
        with self._lock:
            now = self._clock()
            # Who waits asks again within LONGEST_WAIT; who has not for twice as long is gone.
            self._waiting = {each: at for each, at in self._waiting.items() if now - at <= 2 * LONGEST_WAIT}
            self._waiting[who] = now
            turn = self._next + list(self._waiting).index(who) * self._spacing
            if now < turn:
                return min(turn - now, LONGEST_WAIT)
            self._next = now + self._spacing
            del self._waiting[who]
            return 0.0

    def leave(self, who: str) -> None:
        """It need not call any more."""
        with self._lock:
            self._waiting.pop(who, None)
