"""A stage that trains in several processes of this machine, as the runner starts it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evolution_jobs.attempt.in_ranks import in_ranks
from evolution_jobs.attempt.stop import StopRequest
from evolution_jobs.attempt.workspace import StoredWorkspace
from evolution_jobs.contract.stage import RankLayout, Sharding, StageKind
from evolution_jobs.contract.workspace import Result
from evolution_jobs.store.open import open_store

from tests.support.stages.workspace import KEY, LocalWorkspace


class RanksOf:
    """A stage in processes that train together. A second one on the same root has the checkpoints of the first."""

    def __init__(
        self,
        root: Path,
        kind: StageKind,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Path],
        sharding: Sharding = "none",
    ) -> None:
        self.root = root
        self._attempt = f"a{len(list(root.glob('a*')))}"
        self._inputs = inputs
        plain = LocalWorkspace(root / "plain", kind, settings, inputs=inputs)
        self._spec = plain.spec.model_copy(update={"ranks": RankLayout(processes=2, sharding=sharding)})

    def run(self) -> Result:
        """Run to the end; raises what the stage raises."""
        directory = self.root / self._attempt
        directory.mkdir(parents=True)
        workspace = StoredWorkspace(self._spec, open_store(self._spec.storage), self._attempt, directory, StopRequest())
        workspace.inputs.mkdir()
        for name, path in self._inputs.items():
            if path.is_dir():
                (workspace.inputs / name).symlink_to(path)
            else:
                (workspace.inputs / name).mkdir()
                (workspace.inputs / name / path.name).symlink_to(path)
        result = in_ranks(workspace)
        assert result is not None
        assert list(workspace.moments) == ["import", "load"], "the first rank tells when its first step begins"
        return result

    def struck(self, rank: int, number: signal.Signals) -> Result:
        """Run, and send one rank a signal as soon as there is a checkpoint."""
        striker = threading.Thread(target=self._strike, args=(rank, number), daemon=True)
        striker.start()
        return self.run()

    def saved(self) -> list[Path]:
        """The complete checkpoints."""
        return sorted((self.root / "plain" / "store").glob(f"stages/{KEY}/checkpoints/*/index.json"))

    def _strike(self, rank: int, number: signal.Signals) -> None:
        until(lambda: bool(self.saved()))
        os.kill(_process_of(rank), number)


def until(holds: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until a condition holds."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.002)


def _process_of(rank: int) -> int:
    """The process of a rank that this process has started."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
            parent = next(line for line in (process / "status").read_text().splitlines() if line.startswith("PPid:"))
        except (OSError, StopIteration):
            continue
        if f"RANK={rank}".encode() in variables and int(parent.split()[1]) == os.getpid():
            return int(process.name)
    raise LookupError(f"rank {rank} does not run")
