"""Signals as a flag that a stage checks between batches."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..contract.errors import Terminated


class StopRequest:
    """Whether the process was asked to stop."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        """Ask the stage to stop at its next check."""
        self._event.set()

    def pause(self, seconds: float) -> None:
        """Wait. Raises Terminated once the process is asked to stop."""
        if self._event.wait(seconds):
            raise Terminated


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """SIGTERM and SIGINT set the flag; a second SIGINT raises KeyboardInterrupt at once.

    Ctrl-C reaches a whole process group, and whoever started this process may also send SIGTERM: that is one request to
    stop, not two. Outside the main thread Python handles no signals, and the flag is never set.
    """
    stop = StopRequest()
    interrupted = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        if number == signal.SIGINT:
            if interrupted:
                raise KeyboardInterrupt
            interrupted = True
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
