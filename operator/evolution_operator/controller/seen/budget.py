"""A budget of calls that all runs share, so that many runs in trouble cost the API server no more than one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LONGEST_WAIT = 30.0
"""A caller asks again after at most this many seconds, because those ahead of it may have left."""


class Budget:
    """Allows one call per `spacing`, for all callers together. Thread-safe.

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
        """Callers that wait, in their order, and when each asked last."""

    def take(self, who: str) -> float:
        """0 if `who` may make the call now, else the seconds until its turn.

        Turns come in the order of asking. A caller that misses its turn delays the next one by at most one `spacing`.
        """
        with self._lock:
            now = self._clock()
            # A waiting caller asks again within LONGEST_WAIT. One that has not for twice as long is gone.
            self._waiting = {each: at for each, at in self._waiting.items() if now - at <= 2 * LONGEST_WAIT}
            self._waiting[who] = now
            turn = self._next + list(self._waiting).index(who) * self._spacing
            if now < turn:
                return min(turn - now, LONGEST_WAIT)
            self._next = now + self._spacing
            del self._waiting[who]
            return 0.0

    def leave(self, who: str) -> None:
        """Give up its turn."""
        with self._lock:
            self._waiting.pop(who, None)
