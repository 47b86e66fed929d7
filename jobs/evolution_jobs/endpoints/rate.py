"""A rate limit: requests are spread evenly, so no minute has more than allowed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Rate:
    """Gives each request the moment at which it may start. Pure: the caller has the clock and waits."""

    per_minute: float | None
    """None sets no limit."""
    free_at: float = 0.0
    """When the next request may start, in the caller's seconds."""

    def wait(self, now: float) -> float:
        """Seconds until the next request may start; it is taken as started then."""
        if self.per_minute is None:
            return 0.0
        starts = max(now, self.free_at)
        self.free_at = starts + 60 / self.per_minute
        return starts - now
