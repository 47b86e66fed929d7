"""Several processes that train together: what they are told, and what they leave.

The runner's process claims the stage, fetches its inputs, uploads and publishes, as for a stage of one process. Only
the stage's code runs in ranks (`evolution_jobs.rank`). They get their task as a file, and each leaves a report; the
first one leaves the stage's result.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ..cgroup import oom_kills
from ..contract.document import Document
from ..contract.errors import RANK_LOST, Terminated
from ..contract.manifest import Phase
from ..contract.stage import StageSpec
from ..contract.workspace import Result
from .rank_failures import RankReport, failure
from .torchrun import run_ranks
from .workspace import StoredWorkspace

RESULT = TypeAdapter(Result)


class RankTask(Document):
    """What the ranks of one node are to do."""

    spec: StageSpec
    attempt: str
    inputs: str
    """Directory of the inputs, verified."""
    references: dict[str, str]
    launcher: int
    """Process id of torchrun. If it ends, so do the ranks."""
    directory: str
    """Where each rank has its private directory and leaves its report, and the first one the result."""

    def private(self, rank: int) -> Path:
        """The private directory of a rank."""
        return Path(self.directory) / str(rank)

    def report(self, rank: int) -> Path:
        """The report of a rank that has failed."""
        return Path(self.directory) / f"{rank}.report.json"

    @property
    def result(self) -> Path:
        """The stage's result."""
        return Path(self.directory) / "result.json"

    @property
    def account(self) -> Path:
        """What the first rank tells beside the result: an `Account`."""
        return Path(self.directory) / "account.json"


class Account(Document):
    """What a manifest has of a rank's workspace."""

    corrupt: int
    """Checkpoints that were found corrupt, and skipped."""
    moments: dict[Phase, float]
    """When a phase ended, on the machine's monotonic clock."""


def in_ranks(workspace: StoredWorkspace, node: int = 0) -> Result | None:
    """Run the stage's code in the ranks of this node; None on every node but the first.

    Raises what the most severe failure of a rank stands for; PermanentError `GpuMissing` if the node has fewer GPUs than
    ranks; TransientError `RanksMissing` if the nodes do not find each other.
    """
    directory = workspace.scratch / "ranks"
    directory.mkdir()
    task = RankTask(
        spec=workspace.spec,
        attempt=workspace.attempt,
        inputs=str(workspace.inputs),
        references=workspace.references,
        directory=str(directory),
        launcher=os.getpid(),
    )
    file = directory / "task.json"
    file.write_text(task.model_dump_json(by_alias=True, exclude_none=True), "utf-8")
    kills = oom_kills()
    codes, asked = run_ranks(workspace.spec, node, [str(file)], directory / "logs", task.attempt, workspace.check_stop)
    if task.account.exists():
        account = Account.stored(task.account.read_bytes())
        workspace.checkpoints.corrupt += account.corrupt
        workspace.moments = account.moments
    if task.result.exists():
        return RESULT.validate_json(task.result.read_bytes())
    if codes or node == 0:
        found = failure(workspace.spec, codes, _reports(task), _grown(kills, oom_kills()))
        # Asked to stop while they load the model, they do not end at the same time.
        raise Terminated if asked and found.reason == RANK_LOST else found
    return None


def _reports(task: RankTask) -> dict[int, RankReport]:
    found = {}
    for rank in range(task.spec.ranks.count):
        try:
            found[rank] = RankReport.stored(task.report(rank).read_bytes())
        except (OSError, ValidationError):
            continue
    return found


def _grown(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and now > before
