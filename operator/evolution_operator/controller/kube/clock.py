"""The one clock that decisions about runs go by: the API server's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

log = logging.getLogger(__name__)

TOLERANCE = timedelta(seconds=5)
"""A Date has whole seconds and takes a while to arrive: what is less than this is no difference."""


class ServerClock:
    """The API server's time, as the Date of its answers tells it (RFC 9110, section 6.6.1). Thread-safe.

    Replicas whose nodes' clocks differ then agree on deadlines and pauses, and what a status says of times fits what Jobs
    and Pods say.

    Args:
        local: this machine's time, with its time zone.
    """

    def __init__(self, local: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._local = local
        self._lock = threading.Lock()
        self._ahead = timedelta(0)

    @property
    def ahead(self) -> float:
        """Seconds that this machine's clock is ahead of the API server's; 0 where they agree."""
        return self._ahead.total_seconds()

    def now(self) -> datetime:
        """The time in whole seconds, as Kubernetes writes it."""
        return (self._local() - self._ahead).replace(microsecond=0)

    def hear(self, date: str | None) -> None:
        """Take in the Date of an answer that has just come; one that cannot be read tells nothing."""
        try:
            told = parsedate_to_datetime(date or "")
        except ValueError:
            return
        if told.tzinfo is None:
            return
        measured = self._local() - told
        with self._lock:
            if abs(measured - self._ahead) <= TOLERANCE:
                return
            self._ahead = timedelta(0) if abs(measured) <= TOLERANCE else measured
        log.warning(
            "this machine's clock differs from the API server's, whose time counts: ahead by %.0f s", self.ahead
        )
