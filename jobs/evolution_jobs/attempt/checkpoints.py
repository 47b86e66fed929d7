"""Checkpoints of training: directories in the store, complete once their index exists."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ..contract.document import Document
from ..contract.errors import PermanentError, StageError, Terminated
from ..contract.keys import checkpoints_prefix
from ..contract.manifest import Digest
from ..store.base import CorruptObjectError, MissingObjectError, Store, file_sha256, inside

log = logging.getLogger(__name__)

INDEX = "index.json"
NAME = re.compile(r"^(\d{8,})-[a-z0-9-]+$")


class CheckpointFile(Document):
    """One file of a checkpoint."""

    path: str
    sha256: Digest
    size: int


FILES = TypeAdapter(list[CheckpointFile])


class StoredCheckpoints:
    """`evolution_jobs.contract.workspace.Checkpoints` in a store.

    A checkpoint is `stages/<key>/checkpoints/<step>-<attempt>/`, so two attempts never write to the same one. Its
    `index.json` names each file by digest and is written last.
    """

    def __init__(self, store: Store, key: str, attempt: str, scratch: Path) -> None:
        self._store = store
        self._prefix = checkpoints_prefix(key)
        self._attempt = attempt
        self._scratch = scratch / "checkpoint"
        self.corrupt = 0
        """Checkpoints that were skipped because a file was missing or corrupt."""

    def latest(self) -> Path | None:
        """The newest complete checkpoint, copied to scratch and verified. A corrupt one is skipped."""
        for name in sorted(self._names(), key=_order, reverse=True):
            try:
                if self._fetch(name):
                    return self._scratch
            except (CorruptObjectError, MissingObjectError, ValidationError, PermanentError) as error:
                if isinstance(error, PermanentError) and error.reason != "LocationInvalid":
                    raise
                self.corrupt += 1
                log.warning("checkpoint %s is skipped: %s", name, error)
        return None

    def save(self, directory: Path, step: int) -> None:
        """Make a checkpoint directory durable, then remove those of earlier steps."""
        name = f"{step:08d}-{self._attempt}"
        names = self._names()
        if name in names:
            self._store.delete(f"{self._prefix}{name}/{INDEX}")
        older = [other for other in names if other != name and _order(other)[0] <= step]
        files: list[CheckpointFile] = []
        for path in sorted(found for found in directory.rglob("*") if found.is_file()):
            relative = path.relative_to(directory).as_posix()
            files.append(CheckpointFile(path=relative, sha256=file_sha256(path), size=path.stat().st_size))
            self._store.put_file(path, f"{self._prefix}{name}/files/{relative}")
        self._store.put_bytes(FILES.dump_json(files, by_alias=True), f"{self._prefix}{name}/{INDEX}")
        try:
            for other in older:
                self._store.delete(f"{self._prefix}{other}/{INDEX}")
                self._store.delete(f"{self._prefix}{other}/")
        except Terminated:
            raise
        except StageError as error:
            # Training goes on from the newest checkpoint; older ones only take space.
            log.warning("an earlier checkpoint stays in the storage: %s: %s", error.reason, error)

    def _names(self) -> set[str]:
        below = (location.removeprefix(self._prefix) for location, _ in self._store.list(self._prefix))
        return {name for name in (path.partition("/")[0] for path in below) if NAME.match(name)}

    def _fetch(self, name: str) -> bool:
        """Copy one checkpoint to scratch. False if it was never completed."""
        index = self._store.read(f"{self._prefix}{name}/{INDEX}")
        if index is None:
            return False
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        for file in FILES.validate_json(index, extra="ignore"):
            local = inside(self._scratch, file.path)
            local.parent.mkdir(parents=True, exist_ok=True)
            self._store.get_file(f"{self._prefix}{name}/files/{file.path}", local, file.sha256)
        return True


def _order(name: str) -> tuple[int, str]:
    step, _, attempt = name.partition("-")
    return int(step), attempt
