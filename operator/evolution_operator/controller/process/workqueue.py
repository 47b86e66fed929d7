"""Decides which run gets the next pass: one at a time per run, one per burst of nudges, longer pauses after failures.

A nudge after a quiet time starts a pass at once. So does a decisive nudge, such as a Job's end, at any time. All other
nudges within `interval` of a run's last pass (its Pods starting, its own status coming back) cost one more pass.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from ..kube.apiserver import ClusterError
from ..kube.client import RunKey

log = logging.getLogger(__name__)

Pass = Callable[[RunKey], float | None]
"""One pass over a run. Returns after how many seconds it wants another even if nothing happens."""

FIRST_BACKOFF = 0.5
LAST_BACKOFF = 60.0
OUTDATED_ENTRIES = 64
"""Outdated entries are removed if the heap has this many entries more than two per run."""


class WorkQueue:
    """A queue of runs and the threads that work on it. Thread-safe.

    Args:
        work: one pass over a run. Its errors are logged, and the pass is repeated after a growing pause.
        workers: passes at one time.
        interval: least seconds from the end of a run's pass to its next one.
        failed: called with every error.
    """

    def __init__(self, work: Pass, workers: int, interval: float, failed: Callable[[Exception], None]) -> None:
        self._work = work
        self._interval = interval
        self._failed = failed
        self._changed = threading.Condition()
        self._due: dict[RunKey, float] = {}
        """When each run that waits for a pass wants it."""
        self._heap: list[tuple[float, RunKey]] = []
        """Runs by the time at which they may have their pass. An entry that no longer agrees with `_due` is outdated."""
        self._not_before: dict[RunKey, float] = {}
        self._decisive: set[RunKey] = set()
        """Runs that were nudged decisively: they do not wait for the interval."""
        self._since: dict[RunKey, float] = {}
        """When the passes that run now began."""
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
        """End the threads when their passes are over, at the latest after `timeout` seconds."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def pause(self) -> None:
        """Start no more passes."""
        with self._changed:
            self._paused = True

    def resume(self, keys: Iterable[RunKey]) -> None:
        """Start passes, with one over each of these runs."""
        with self._changed:
            self._paused = False
            for key in keys:
                self._schedule(key, 0.0)
            self._changed.notify_all()

    def nudge(self, key: RunKey, after: float = 0.0, decisive: bool = False) -> None:
        """Ask for a pass in `after` seconds or earlier; if `decisive`, however short ago the last one was."""
        due = time.monotonic() + after
        with self._changed:
            sooner = due < self._due.get(key, float("inf")) or (decisive and key not in self._decisive)
            if decisive:
                self._decisive.add(key)
            if sooner:
                self._schedule(key, due)
                self._changed.notify()

    def depth(self) -> int:
        """Runs that are due and wait for a free worker."""
        now = time.monotonic()
        with self._changed:
            return sum(due <= now for due in self._due.values())

    def longest_pass(self) -> float:
        """Seconds that the longest of the passes that run now has taken."""
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
        """Waits for the next run that is due and returns it; None once the queue is stopped."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                first = None if self._paused else self._first()
                if first is not None and first[0] <= now:
                    _, key = heapq.heappop(self._heap)
                    del self._due[key]
                    self._decisive.discard(key)
                    self._since[key] = now
                    return key
                self._changed.wait(None if first is None else first[0] - now)
        return None

    def _first(self) -> tuple[float, RunKey] | None:
        """The heap's first entry once outdated ones before it are gone."""
        while self._heap and not self._counts(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def _counts(self, ready: float, key: RunKey) -> bool:
        return key in self._due and key not in self._since and ready == self._ready_at(key)

    def _schedule(self, key: RunKey, due: float) -> None:
        """Let the run have a pass at `due`, or earlier if it is due earlier already."""
        self._due[key] = min(due, self._due.get(key, due))
        if key in self._since:
            return  # `_done` adds the entry: only then is it known when the run may have its next pass.
        heapq.heappush(self._heap, (self._ready_at(key), key))
        if len(self._heap) > 2 * len(self._due) + OUTDATED_ENTRIES:
            self._heap = [entry for entry in self._heap if self._counts(*entry)]
            heapq.heapify(self._heap)

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
            if again is not None or key in self._due:
                self._schedule(key, float("inf") if again is None else now + again)
            else:
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
