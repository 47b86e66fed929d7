"""What a stage's code sees: its inputs as local paths, its scratch directory, its finished rows, its checkpoints.

A stage is a module of `evolution_jobs.stages` with one function

    def run(workspace: Workspace) -> Result | None

that knows nothing of storage, keys, attempts or Kubernetes.

A sharded stage finishes its own rows, except those in `workspace.rows.finished()`, appends them, and then looks again.
If every expected row is finished, it merges them all and returns the Result; otherwise it returns None, and a later
shard merges. Two shards may both find all rows finished: the first to publish wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .figures import Interval
from .stage import StageSpec


@dataclass(frozen=True)
class Result:
    """What a stage returns to the runner, which uploads and publishes it."""

    outputs: Mapping[str, Path]
    """Output name to a file or directory in the workspace."""
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """95 % interval of metrics, low and high."""
    details: Mapping[str, Any] = field(default_factory=dict)
    tokens: int = 0
    notes: Sequence[str] = ()
    """What a user should know of a stage that succeeded, one sentence each, such as text that was left out."""
    references: Mapping[str, str] = field(default_factory=dict)
    """Output name to the location of content that is not copied (a pinned hub model). Such an output may have no files."""
    copied_models: frozenset[str] = frozenset()
    """Outputs that are copies of a base model. They are stored once, under their digest, for all runs."""


class Rows(Protocol):
    """Finished rows of a sharded stage, shared by all shards and all attempts at one key."""

    def finished(self) -> Mapping[str, dict[str, Any]]:
        """Every row that any attempt has finished, by id. Corrupt chunks are left out; the runner counts them."""
        ...

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Make rows durable as one chunk, whole or not at all. Each row has an `id`."""
        ...


class Checkpoints(Protocol):
    """Training state that outlives the process."""

    def latest(self) -> Path | None:
        """The newest complete checkpoint as a local directory, or None. It is verified by digest; a corrupt one is skipped."""
        ...

    def save(self, directory: Path, step: int) -> None:
        """Make a checkpoint directory durable, then remove older ones."""
        ...


class Workspace(Protocol):
    """What one attempt at a stage works with."""

    spec: StageSpec
    scratch: Path
    """A private directory, removed at the end."""

    @property
    def rows(self) -> Rows:
        """Finished rows, of a sharded stage."""
        ...

    @property
    def rows_ahead(self) -> Rows | None:
        """Finished rows of the stage in `spec.ahead`; None without one, and once that stage is published."""
        ...

    @property
    def checkpoints(self) -> Checkpoints:
        """Training state, of a stage that trains."""
        ...

    def input(self, name: str) -> Path:
        """The named input as a local directory of verified files. It must not be written to.

        Raises PermanentError that names the input if the stage has no such input.
        """
        ...

    def reference(self, name: str) -> str | None:
        """Location of the named input if it was pinned and not copied (`hf://owner/model@commit`), else None."""
        ...

    def digest(self, name: str) -> str:
        """Digest of the named input's content, as the manifest has it."""
        ...

    def has_input(self, name: str) -> bool:
        """Whether the spec names this input (replay may be absent)."""
        ...

    def imported(self) -> None:
        """Say that the libraries are imported, where a stage imports some when it needs them. Only the first call counts."""
        ...

    def loaded(self) -> None:
        """Say that models are loaded and the first step begins. Only the first call counts."""
        ...

    def progress(self, done: int, total: int, unit: str) -> None:
        """Report progress in rows, steps or parts. It is cheap: the workspace limits the rate."""
        ...

    def check_stop(self) -> None:
        """Raise Terminated if the process was asked to stop. To be called between batches, once finished work is durable."""
        ...

    @property
    def stopping(self) -> bool:
        """True once the process was asked to stop. For trainers, which stop at the end of a step."""
        ...


def shard_of(ids: Iterable[str], index: int, count: int) -> Iterator[str]:
    """The ids whose position modulo `count` is `index`."""
    return (id_ for position, id_ in enumerate(ids) if position % count == index)
