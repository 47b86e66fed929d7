"""What a stage's code sees of the world: its inputs as local paths, its scratch directory, its finished rows, its checkpoints.

A stage is a module of this package with one function

    def run(workspace: Workspace) -> Result | None

readable top to bottom. It knows nothing of storage, keys, attempts or Kubernetes.

A stage whose rows are shared out over shards finishes its own rows (but those in `workspace.rows.finished()`), appends
them, and then looks again: where every expected row is finished it merges them all and returns the Result, else it
returns None, and the shard that comes last will merge. Two shards may both find all rows there: the first to publish
wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..contract.stage import StageSpec


@dataclass(frozen=True)
class Result:
    """What a stage hands back to the runner, which uploads and publishes it."""

    outputs: Mapping[str, Path]
    """Output name to a file or directory in the workspace."""
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    tokens: int = 0
    references: Mapping[str, str] = field(default_factory=dict)
    """Output name to where content lies that is not copied (a pinned hub model); such an output may have no files."""
    copied_models: frozenset[str] = frozenset()
    """Outputs that many runs copy alike: stored once, where their content says."""


class Rows(Protocol):
    """Finished rows of a sharded stage, shared by all shards and all attempts at one key."""

    def finished(self) -> Mapping[str, dict[str, Any]]:
        """Every row any attempt has finished, by id; corrupt chunks are dropped and counted by the runner."""
        ...

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Make rows durable as one chunk. Each row has an `id`; a chunk is all there or not at all."""
        ...


class Checkpoints(Protocol):
    """Training state that outlives the process."""

    def latest(self) -> Path | None:
        """The newest complete checkpoint as a local directory, or None. Verified by digest; a corrupt one is passed over."""
        ...

    def save(self, directory: Path, step: int) -> None:
        """Make a checkpoint directory durable; older ones are removed once it is."""
        ...


class Workspace(Protocol):
    """One attempt's view."""

    spec: StageSpec
    scratch: Path
    """A private directory, removed at the end."""

    @property
    def rows(self) -> Rows:
        """Finished rows, of a sharded stage."""
        ...

    @property
    def checkpoints(self) -> Checkpoints:
        """Training state, of a stage that trains."""
        ...

    def input(self, name: str) -> Path:
        """The named input as a local directory of verified files; it must not be written to.

        Raises TransientError or PermanentError with the input's name where it cannot be had.
        """
        ...

    def reference(self, name: str) -> str | None:
        """Where the named input lies when it was pinned and not copied (`hf://owner/model@commit`), else None."""
        ...

    def has_input(self, name: str) -> bool:
        """Whether the spec names this input (replay may be absent)."""
        ...

    def progress(self, done: int, total: int, unit: str) -> None:
        """Report progress: rows or steps. Cheap; the workspace limits the rate."""
        ...

    def check_stop(self) -> None:
        """Raise Terminated if the process was asked to stop. Call between batches, after what is done is durable."""
        ...

    @property
    def stopping(self) -> bool:
        """True once the process was asked to stop (for trainers, which stop at a step's end)."""
        ...


def shard_of(ids: Iterable[str], index: int, count: int) -> Iterator[str]:
    """The ids whose position modulo `count` is `index`."""
    return (id_ for position, id_ in enumerate(ids) if position % count == index)
