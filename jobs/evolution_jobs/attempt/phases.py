"""Where the time of an attempt goes, from the start of its Pod to the published result."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ..contract import volumes
from ..contract.manifest import Phase


class Phases:
    """Seconds by phase. Each `end` closes the time since the one before it."""

    def __init__(self, spec: Path | None = None) -> None:
        """Start with this process. `spec` is the file of the stage's spec, which tells the Pod's start if the kubelet wrote it."""
        age = process_age()
        self._since = time.monotonic() - age
        self._seconds: dict[Phase, float] = {}
        if spec is not None and spec.parent == volumes.SPEC_DIRECTORY:
            # The kubelet writes this file while it attaches the Pod's volumes, before it pulls the image.
            self._seconds["pull"] = max(0.0, time.time() - age - spec.stat().st_mtime)

    def __str__(self) -> str:
        return ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in self.seconds.items())

    def end(self, phase: Phase, at: float | None = None) -> None:
        """The time until now, or until `at` (of `time.monotonic`), belongs to this phase."""
        now = time.monotonic() if at is None else at
        self._seconds[phase] = self._seconds.get(phase, 0.0) + max(0.0, now - self._since)
        self._since = now

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each phase that has ended."""
        return {phase: round(seconds, 3) for phase, seconds in self._seconds.items()}


def process_age() -> float:
    """Seconds since this process started; 0 where the system does not tell (no /proc)."""
    try:
        # Field 22 of proc(5); the name in field 2 may hold blanks and brackets.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError):
        return 0.0
