"""The API server's clock. All decisions about runs use it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

log = logging.getLogger(__name__)

TOLERANCE = timedelta(seconds=5)
"""A smaller difference is ignored: a Date has whole seconds and takes a while to arrive."""


class ServerClock:
    """The API server's time, from the Date of its answers (RFC 9110, section 6.6.1). Thread-safe.

    Replicas on nodes with different clocks then agree on deadlines and pauses, and the times in a status agree with
    those of Jobs and Pods.

    Args:
        local: this machine's time, with its time zone.
    """

    def __init__(self, local: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._local = local
        self._lock = threading.Lock()
        self._ahead = timedelta(0)

    @property
    def ahead(self) -> float:
        """Seconds by which this machine's clock is ahead of the API server's; 0 if they agree."""
        return self._ahead.total_seconds()

    def now(self) -> datetime:
        """The time in whole seconds, as Kubernetes writes it."""
        return (self._local() - self._ahead).replace(microsecond=0)

    def set_from(self, date: str | None) -> None:
        """Set the clock from the Date of an answer that has just arrived; an unreadable one is ignored."""
        try:
            server = parsedate_to_datetime(date or "")
        except ValueError:
            return
        if server.tzinfo is None:
            return
        measured = self._local() - server
        with self._lock:
            if abs(measured - self._ahead) <= TOLERANCE:
                return
            self._ahead = timedelta(0) if abs(measured) <= TOLERANCE else measured
        log.warning("this machine is %.0f s ahead of the API server's clock; the server's clock is used", self.ahead)
