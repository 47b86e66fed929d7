"""`evolution run`: observe, plan, execute and wait, until the run is finished."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import wait
from pathlib import Path

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.store.base import Store

from ..api.status import RunStatus
from ..planner.actions import Action, Plan, Resume, Start, Stop, Suspend
from ..planner.graph import build_graph
from ..planner.observed import Observed, Run
from ..planner.plan import plan
from .attempts import LocalAttempt, clear, room
from .lookup import Finished, look_up, record
from .machine import Machine
from .process.launcher import Launcher, LocalLauncher

GRACE_SECONDS = 60.0
"""Seconds that stages have to save after Ctrl-C before they are killed."""
LOCK = "lock"
"""File in a run's directory that its driver keeps locked."""
POLL_SECONDS = 1.0
"""Seconds between two looks at progress while no process ends."""

Watcher = Callable[[Plan], None]


class Driver:
    """Drives one run with processes on this machine."""

    def __init__(
        self,
        run: Run,
        store: Store,
        machine: Machine,
        directory: Path,
        print_line: Callable[[str], None],
        launcher: Launcher | None = None,
    ) -> None:
        self._run = run
        self._store = store
        self._machine = machine
        self._directory = directory
        self._print = print_line
        self._launcher = launcher or LocalLauncher(directory / "server.log")
        self._attempts: dict[str, LocalAttempt] = {}
        self._ended: list[LocalAttempt] = []
        self._previous: RunStatus | None = None
        self._finished = Finished({}, None)

    def drive(self, watch: Watcher) -> RunStatus:
        """Run until Complete, Failed or Suspended. Ctrl-C lets stages save, then raises KeyboardInterrupt."""
        self.begin()
        try:
            while True:
                status = self.step(watch)
                if status.phase in ("Complete", "Failed", "Suspended") and not self._busy():
                    return status
                self._wait()
        finally:
            self.end()

    def begin(self) -> None:
        """Find stages that are finished already, and record that this run has them."""
        graph = build_graph(self._run.spec, dict(self._run.pins))
        self._finished = look_up(self._store, graph, self._print)
        record(self._store, self._run.ref, graph, self._finished)

    def step(self, watch: Watcher) -> RunStatus:
        """Plan and execute until no action is left for now."""
        while True:
            for attempt in (*self._attempts.values(), *self._ended):
                attempt.poll()
            self._ended = [attempt for attempt in self._ended if attempt.processes]
            self._finished = self._finished.without({attempt.corrupt_input for attempt in self._attempts.values()})
            decided = plan(self._run, self._observe(), datetime.now(UTC))
            self._previous = decided.status
            watch(decided)
            for action in decided.actions:
                self._execute(action)
            self._admit()
            if not decided.actions:
                return decided.status

    def _observe(self) -> Observed:
        return Observed(
            attempts=tuple(attempt.observed() for attempt in self._attempts.values()),
            published=self._finished.published(self._run.ref),
            contents=self._finished.contents,
            previous=self._previous,
        )

    def _execute(self, action: Action) -> None:
        match action:
            case Start(spec=spec):
                self._attempts[spec.stage] = LocalAttempt(action, self._directory)
            case Stop(stage=stage):
                attempt = self._attempts.pop(stage)
                attempt.stop()
                self._ended.append(attempt)
            case Suspend(stage=stage):
                self._attempts[stage].suspend()
            case Resume(stage=stage):
                self._attempts[stage].resume()

    def _admit(self) -> None:
        for attempt, gpus in room(self._machine, [*self._attempts.values(), *self._ended]):
            attempt.admit(self._launcher, self._machine, gpus)

    def _busy(self) -> bool:
        return any(attempt.processes for attempt in (*self._attempts.values(), *self._ended))

    def _wait(self) -> None:
        """Wait until a process ends, at most `POLL_SECONDS`."""
        processes = [p for a in (*self._attempts.values(), *self._ended) for p in a.processes]
        if not wait([p.sentinel for p in processes], timeout=POLL_SECONDS) and processes:
            # A stage with a wrong input ends before this, without sharing the machine with the imports.
            self._launcher.warm()

    def end(self) -> None:
        """Let running stages save and stop, then kill them."""
        attempts = [*self._attempts.values(), *self._ended]
        for attempt in attempts:
            if attempt.processes:
                attempt.stop()
        deadline = time.monotonic() + GRACE_SECONDS
        for attempt in attempts:
            for process in attempt.processes:
                try:
                    ended = process.join(max(0.0, deadline - time.monotonic()))
                except KeyboardInterrupt:
                    ended, deadline = False, 0.0
                if not ended:
                    process.kill()
                    process.join()
        self._launcher.close()


def log_directory(storage_uri: str, namespace: str, name: str) -> Path:
    """This run's directory for logs on this machine. It exists once the run was started here."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "evolution"
    place = "".join(c if c.isalnum() else "-" for c in storage_uri.partition("://")[2]).strip("-")[-80:]
    return home / place / namespace / name


@contextmanager
def run_directory(storage_uri: str, namespace: str, name: str) -> Iterator[Path]:
    """This run's directory for logs on this machine, locked against a second driver.

    Raises PermanentError `RunBusy` if another process drives the run.
    """
    directory = log_directory(storage_uri, namespace, name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / LOCK).open("w")
    except OSError as error:
        raise PermanentError("StateUnwritable", f"{directory}: {error.strerror}; set XDG_STATE_HOME") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermanentError(
                "RunBusy", f"another `evolution run` works on {namespace}/{name} in {storage_uri}; wait or stop it"
            ) from None
        clear(directory)
        yield directory


def attempt_prefix() -> str:
    """A prefix for attempt names. It differs for each driver, because a driver forgets its numbers when it ends."""
    return f"local-{secrets.token_hex(4)}"
