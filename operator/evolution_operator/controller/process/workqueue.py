"""Which run is looked at next: each at most once at a time, a burst of nudges once, a failing one ever more seldom.

A nudge after a quiet time starts a pass at once, and so does decisive news, such as a Job's end, at any time. Whatever
else happens within `interval` of a run's last pass (its Pods starting, its own status coming back) costs one more pass.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from ..kube.apiserver import ClusterError
from ..kube.client import RunKey

log = logging.getLogger(__name__)

Pass = Callable[[RunKey], float | None]
"""One pass over a run; how many seconds later it wants another even if nothing happens."""

FIRST_BACKOFF = 0.5
LAST_BACKOFF = 60.0


class WorkQueue:
    """A queue of runs and the threads that work on it. Thread-safe.

    Args:
        work: one pass over a run. Its errors are logged, and the pass is repeated after a growing pause.
        workers: passes at one time.
        interval: least seconds from the end of a run's pass to its next one.
        failed: told of every error.
    """

    def __init__(self, work: Pass, workers: int, interval: float, failed: Callable[[Exception], None]) -> None:
        self._work = work
        self._interval = interval
        self._failed = failed
        self._changed = threading.Condition()
        self._due: dict[RunKey, float] = {}
        self._not_before: dict[RunKey, float] = {}
        self._decisive: set[RunKey] = set()
        """Runs with news that does not wait for the interval."""
        self._since: dict[RunKey, float] = {}
        """When the passes at work now began."""
        self._failures: dict[RunKey, int] = {}
        self._paused = True
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"reconcile-{number}", daemon=True) for number in range(workers)
        ]

    def start(self) -> None:
        """Start the threads. The queue is paused until `resume`."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> None:
        """End the threads once their passes are over, at most after `timeout` seconds."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def pause(self) -> None:
        """Begin no pass any more."""
        with self._changed:
            self._paused = True

    def resume(self, keys: Iterable[RunKey]) -> None:
        """Begin passes, with one over each of these runs."""
        with self._changed:
            self._paused = False
            self._due |= dict.fromkeys(keys, 0.0)
            self._changed.notify_all()

    def nudge(self, key: RunKey, after: float = 0.0, decisive: bool = False) -> None:
        """Look at a run, at the latest in `after` seconds; where the news is decisive, whenever its last pass was."""
        due = time.monotonic() + after
        with self._changed:
            sooner = due < self._due.get(key, float("inf")) or (decisive and key not in self._decisive)
            if decisive:
                self._decisive.add(key)
            if sooner:
                self._due[key] = min(due, self._due.get(key, due))
                self._changed.notify()

    def depth(self) -> int:
        """Runs that wait though their time has come."""
        now = time.monotonic()
        with self._changed:
            return sum(due <= now for due in self._due.values())

    def longest_pass(self) -> float:
        """Seconds that the oldest pass at work now has taken."""
        now = time.monotonic()
        with self._changed:
            return max((now - since for since in self._since.values()), default=0.0)

    def _serve(self) -> None:
        while (key := self._next()) is not None:
            again: float | None
            try:
                again = self._work(key)
                failures = 0
            except Exception as error:  # noqa: BLE001 -- the edge: one run's trouble is not the others'
                failures = self._failures.get(key, 0) + 1
                again = min(FIRST_BACKOFF * 2 ** min(failures - 1, 20), LAST_BACKOFF)
                _report(key, error, again)
                self._failed(error)
            self._done(key, again, failures)

    def _next(self) -> RunKey | None:
        """The run whose turn it is, None at the end. Waits for it."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                ready = {key: self._ready_at(key) for key in self._due if key not in self._since}
                key = min(ready, key=lambda key: ready[key], default=None)
                if key is not None and not self._paused and ready[key] <= now:
                    del self._due[key]
                    self._decisive.discard(key)
                    self._since[key] = now
                    return key
                wait = None if key is None or self._paused else ready[key] - now
                self._changed.wait(wait)
        return None

    def _ready_at(self, key: RunKey) -> float:
        if key in self._decisive and key not in self._failures:
            return self._due[key]
        return max(self._due[key], self._not_before.get(key, 0.0))

    def _done(self, key: RunKey, again: float | None, failures: int) -> None:
        now = time.monotonic()
        with self._changed:
            del self._since[key]
            _set_or_drop(self._failures, key, failures)
            if failures:
                # A nudge does not shorten the pause after an error, or a broken cluster would be hammered.
                self._not_before[key] = now + (again or 0.0)
            else:
                self._not_before[key] = now + self._interval
            if again is not None:
                self._due[key] = min(self._due.get(key, float("inf")), now + again)
            elif key not in self._due:
                # Nothing is left to do for it, and perhaps it is gone: forget it.
                del self._not_before[key]
            self._changed.notify()


def _set_or_drop(values: dict[RunKey, int], key: RunKey, value: int) -> None:
    values.pop(key, None)
    if value:
        values[key] = value


def _report(key: RunKey, error: Exception, again: float) -> None:
    extra: dict[str, Any] = {"run": f"{key.namespace}/{key.name}"}
    if isinstance(error, ClusterError):
        log.warning("the pass failed and is repeated in %.1f s: %s", again, error, extra=extra)
    else:
        log.error("the pass failed and is repeated in %.1f s", again, extra=extra, exc_info=error)
