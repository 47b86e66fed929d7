"""A workspace over plain directories, for tests of stages: no store, no keys, no attempts.

    workspace = LocalWorkspace(tmp_path, "generate", {"temperature": 0}, inputs={"contexts": path})
    result = generate.run(workspace)

A second workspace on the same directory has the rows and checkpoints of the first. So a test resumes a stage.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evolution_jobs.contract.errors import PermanentError, Terminated
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.stage import Ahead, Input, RunRef, Shard, StageKind, StageSpec

KEY = "0" * 64


class DirectoryRows:
    """Finished rows: one JSON Lines file for each chunk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def chunks(self) -> list[Path]:
        """The files, oldest first."""
        return sorted(self.directory.glob("*.jsonl"))

    def finished(self) -> Mapping[str, dict[str, Any]]:
        rows = (json.loads(line) for chunk in self.chunks for line in chunk.read_text("utf-8").splitlines())
        return {row["id"]: row for row in rows}

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if not text:
            return
        partial = self.directory / "partial"
        partial.write_text(text, "utf-8")
        partial.rename(self.directory / f"{len(self.chunks):06d}.jsonl")


class DirectoryCheckpoints:
    """Checkpoints: one directory for each step."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def steps(self) -> list[int]:
        """Steps with a checkpoint, in order."""
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit())

    def latest(self) -> Path | None:
        return self.directory / str(self.steps[-1]) if self.steps else None

    def save(self, directory: Path, step: int) -> None:
        older = self.steps
        partial = self.directory / "partial"
        shutil.copytree(directory, partial)
        partial.rename(self.directory / str(step))
        for before in older:
            shutil.rmtree(self.directory / str(before))


class LocalWorkspace:
    """`evolution_jobs.contract.workspace.Workspace` over `root`.

    `inputs` maps an input's name to a file (served as a directory that holds it) or to a directory; `references` to
    the location of a pinned input. `shard` is (index, count). `stop_after` asks the stage to stop at that many calls of
    `check_stop`, counted from 1. `ahead` has the settings of reflect, whose rows `rows_ahead` are below `root/ahead`.
    """

    def __init__(
        self,
        root: Path,
        kind: StageKind,
        settings: Mapping[str, Any],
        seed: int = 0,
        inputs: Mapping[str, Path] | None = None,
        shard: tuple[int, int] = (0, 1),
        references: Mapping[str, str] | None = None,
        iteration: int | None = None,
        stop_after: int | None = None,
        ahead: Mapping[str, Any] | None = None,
    ) -> None:
        self._inputs = dict(inputs or {})
        self._references = dict(references or {})
        self._stop_after = stop_after
        self._checks = 0
        self._stopping = False
        (root / "scratch").mkdir(parents=True, exist_ok=True)
        self.scratch = Path(tempfile.mkdtemp(dir=root / "scratch"))
        self._served = Path(tempfile.mkdtemp(dir=root / "scratch"))
        self.rows = DirectoryRows(root / "rows")
        self.rows_ahead = None if ahead is None else DirectoryRows(root / "ahead" / "rows")
        self.checkpoints = DirectoryCheckpoints(root / "checkpoints")
        self.reported: list[tuple[int, int, str]] = []
        """Each call of `progress`."""
        self.is_loaded = False
        self.spec = StageSpec(
            run=RunRef(namespace="default", name="test", uid="test"),
            stage=kind if iteration is None else f"{kind}-{iteration}",
            kind=kind,
            iteration=iteration,
            key=KEY,
            attempt="a0",
            settings=dict(settings),
            seed=seed,
            inputs={
                name: Input(stage="prepare", key=KEY, output=name) for name in {**self._inputs, **self._references}
            },
            storage=Storage(uri=f"file://{root / 'store'}"),
            shard=Shard(index=shard[0], count=shard[1]),
            ahead=None if ahead is None else Ahead(stage="reflect", key=KEY, settings=dict(ahead), seed=seed),
        )

    def imported(self) -> None:
        return

    def loaded(self) -> None:
        self.is_loaded = True

    def input(self, name: str) -> Path:
        if name not in self._inputs:
            raise PermanentError("InputMissing", f"input {name}: not given to this workspace")
        path = self._inputs[name]
        if path.is_dir():
            return path
        directory = self._served / name
        if not directory.exists():
            directory.mkdir()
            (directory / path.name).symlink_to(path.resolve())
        return directory

    def reference(self, name: str) -> str | None:
        return self._references.get(name)

    def digest(self, name: str) -> str:
        return f"digest of {name}"

    def has_input(self, name: str) -> bool:
        return name in self.spec.inputs

    def progress(self, done: int, total: int, unit: str) -> None:
        self.reported.append((done, total, unit))

    def stop(self) -> None:
        """Ask the stage to stop, as SIGTERM does."""
        self._stopping = True

    def check_stop(self) -> None:
        self._checks += 1
        if self._stop_after is not None and self._checks >= self._stop_after:
            self.stop()
        if self._stopping:
            raise Terminated()

    @property
    def stopping(self) -> bool:
        return self._stopping
