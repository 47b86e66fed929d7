"""For how long each watch has delivered nothing. Nothing happens on an idle cluster, so this alone is no fault."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable


class Silence:
    """Remembers when each watch last delivered an event.

    Args:
        kinds: what is watched: evolutionruns, jobs, pods.
        clock: monotonic seconds.
    """

    def __init__(self, kinds: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard = dict.fromkeys(kinds, clock())

    def heard(self, kind: str) -> None:
        """The watch of this kind has delivered an event."""
        self._heard[kind] = self._clock()

    def seconds(self) -> dict[str, float]:
        """Seconds since the last event, by kind."""
        now = self._clock()
        return {kind: now - at for kind, at in self._heard.items()}
