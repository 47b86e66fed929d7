"""Tracks a run while the local driver drives it, in a process that can neither slow nor fail it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..api.spec import TrackerName
from ..api.status import RunStatus
from ..planner.actions import Plan
from ..planner.observed import Run
from .child import FAULT, Snapshot
from .trackers import require

FINISH_SECONDS = 60.0
"""Seconds that the tracker has to take the rest once the run has ended."""
LAST_BYTES = 8192
"""How much of the log's end is searched for the reason of a failure."""

Observe = Callable[[Plan], None]


@contextmanager
def tracked(run: Run, directory: Path, tell: Callable[[str], None]) -> Iterator[Observe]:
    """Gives a function that takes every plan of the driver. `tell` is called at most once, if the tracker lacks something.

    Does nothing without `spec.tracking`. Raises PermanentError `DependencyMissing` if its library is not installed.
    """
    name = run.spec.tracking
    if name is None:
        yield lambda plan: None
        return
    require(name)
    tracking = _Tracking(run, name, directory)
    try:
        yield lambda plan: tracking.observe(plan.status)
    finally:
        fault = tracking.finish()
        if fault:
            tell(
                f"tracking: {fault}. The run is not affected; `evolution track` sends what {name} lacks (log: {tracking.log})"
            )


class _Tracking:
    """The process, and what it was told last."""

    def __init__(self, run: Run, name: TrackerName, directory: Path) -> None:
        self._run = run
        self._name = name
        self._file = directory / "tracking.json"
        self.log = directory / "tracking.log"
        self._told: object = None
        self._fault: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def observe(self, status: RunStatus) -> None:
        """Wake the process if a stage has finished, or if the run has ended."""
        finished = {stage.id for stage in status.stages if stage.state == "Succeeded"}
        if not finished or (finished, status.phase) == self._told:
            return
        self._told = (finished, status.phase)
        try:
            self._wake(status)
        except BrokenPipeError:
            # It has ended. `finish` says why.
            return
        except OSError as error:
            # No memory for a process, or no room on the disk: the run goes on.
            self._fault = f"{self._name} was not told everything: {error.strerror}"

    def _wake(self, status: RunStatus) -> None:
        snapshot = Snapshot(run=self._run.ref, spec=self._run.spec, status=status)
        partial = self._file.with_suffix(".partial")
        partial.write_text(snapshot.model_dump_json(by_alias=True, exclude_none=True), "utf-8")
        partial.replace(self._file)
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(b"+")
        process.stdin.flush()

    def finish(self) -> str | None:
        """Wait until everything is sent. Returns why the tracker lacks something."""
        process = self._process
        if process is None:
            return self._fault
        assert process.stdin is not None
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            code = process.wait(FINISH_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()
            return f"{self._name} has not taken everything in time"
        if code == 0:
            return self._fault
        return self._reason() or f"the tracking process ended with exit code {code}"

    def _start(self) -> subprocess.Popen[bytes]:
        # In a session of its own, Ctrl-C does not end it before the last figures are sent.
        command = [sys.executable, "-m", f"{__package__}.child", self._name, str(self._file)]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)

    def _reason(self) -> str | None:
        """The last error in its log."""
        try:
            lines = self.log.read_bytes()[-LAST_BYTES:].decode("utf-8", "replace").splitlines()
        except OSError:
            return None
        return next((line.removeprefix(FAULT) for line in reversed(lines) if line.startswith(FAULT)), None)
