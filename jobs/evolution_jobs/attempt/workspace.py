"""The workspace of a stage: a private directory with its inputs, and rows and checkpoints in the store."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from ..contract.errors import PermanentError, Terminated
from ..contract.manifest import Phase
from ..contract.stage import StageSpec
from ..store.base import Store
from ..store.manifests import published
from .checkpoints import StoredCheckpoints
from .rows import StoredRows
from .stop import StopRequest

PROGRESS_INTERVAL = 0.5
"""Minimum seconds between two progress lines."""


def say_waiting(spec: StageSpec, run: str | None, stop: StopRequest) -> None:
    """Write one JSON line to stdout: `run` (`namespace/name`) computes this stage; None says that it no longer does."""
    _say({"waiting": {"stage": spec.stage, "shard": spec.shard.index, "run": run}}, stop)


def _say(line: dict[str, Any], stop: StopRequest) -> None:
    try:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever started this process is gone, and nobody needs the result
        stop.set()


class StoredWorkspace:
    """`evolution_jobs.contract.workspace.Workspace` over a store."""

    def __init__(self, spec: StageSpec, store: Store, attempt: str, directory: Path, stop: StopRequest) -> None:
        self.spec = spec
        self.attempt = attempt
        """Name of this process's attempt: its files go under it."""
        self.scratch = directory / "scratch"
        self.scratch.mkdir()
        self.inputs = directory / "inputs"
        """Directory of the inputs, one subdirectory each."""
        self.references: dict[str, str] = {}
        self.digests: dict[str, str] = {}
        self.rows = StoredRows(store, spec.key, lambda: bool(published(store, [spec.key])))
        self.rows_ahead = (
            StoredRows(store, spec.ahead.key) if spec.ahead and not published(store, [spec.ahead.key]) else None
        )
        self.checkpoints = StoredCheckpoints(store, spec.key, attempt, directory)
        self.moments: dict[Phase, float] = {}
        """When a phase ended within the stage's own code, on the clock of `time.monotonic`."""
        self._stop = stop
        self._reported = float("-inf")

    @property
    def corrupt_chunks(self) -> int:
        """Chunks of finished rows that were found corrupt."""
        return self.rows.corrupt_chunks + (self.rows_ahead.corrupt_chunks if self.rows_ahead else 0)

    def input(self, name: str) -> Path:
        """The named input as a local directory of verified files. It must not be written to."""
        if not self.has_input(name):
            raise PermanentError("InputMissing", f"inputs.{name}: stage {self.spec.stage} needs it and has none")
        return self.inputs / name

    def reference(self, name: str) -> str | None:
        """Location of the named input if it was pinned and not copied, else None."""
        return self.references.get(name)

    def digest(self, name: str) -> str:
        """Digest of the named input's content, as the manifest has it."""
        return self.digests[name]

    def has_input(self, name: str) -> bool:
        """Whether the spec names this input."""
        return name in self.spec.inputs

    def imported(self) -> None:
        """Say that the libraries are imported."""
        self.moments.setdefault("import", time.monotonic())

    def loaded(self) -> None:
        """Say that models are loaded and the first step begins."""
        self.moments.setdefault("load", time.monotonic())

    def progress(self, done: int, total: int, unit: str) -> None:
        """Write one JSON line to stdout: at most two a second, but always the last, and every one that counts parts."""
        now = time.monotonic()
        if now - self._reported < PROGRESS_INTERVAL and done < total and unit != "parts":
            return
        self._reported = now
        line = {
            "stage": self.spec.stage,
            "shard": self.spec.shard.index,
            "done": done,
            "total": total,
            "unit": unit,
        }
        _say({"progress": line}, self._stop)

    def check_stop(self) -> None:
        """Raise Terminated if the process was asked to stop."""
        if self.stopping:
            raise Terminated

    @property
    def stopping(self) -> bool:
        """True once the process was asked to stop."""
        return bool(self._stop)
