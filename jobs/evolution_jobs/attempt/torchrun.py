"""Several processes that train together: torchrun starts them on this node, and their result or failure is read here.

The runner's process claims the stage, fetches its inputs, uploads and publishes, as for a stage of one process. Only
the stage's code runs in ranks (`evolution_jobs.rank`). They get their task as a file, and each leaves a report; the
first one leaves the stage's result.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from ..cgroup import allowed_cores, oom_kills
from ..contract.document import Document
from ..contract.errors import RANK_LOST, PermanentError, Terminated, TransientError
from ..contract.stage import RankLayout, StageSpec
from ..contract.variables import GPUS_VARIABLE, MASTER_ADDRESS_VARIABLE, MASTER_PORT_VARIABLE
from ..contract.workspace import Result
from ..redaction import words_of
from .rank_failures import RankReport, failure
from .workspace import StoredWorkspace

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

log = logging.getLogger(__name__)

RESULT = TypeAdapter(Result)
LOOPBACK = "127.0.0.1"
LOOK = 2.0
"""Seconds after which a node looks for the first one again."""
PATIENCE = 900
"""Seconds that the ranks of all nodes have to find each other."""


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
    def corrupt(self) -> Path:
        """How many checkpoints the first rank has skipped."""
        return Path(self.directory) / "corrupt"


def in_ranks(workspace: StoredWorkspace, node: int = 0) -> Result | None:
    """Run the stage's code in the ranks of this node; None on every node but the first.

    Raises what the most severe failure of a rank stands for; PermanentError `GpuMissing` if the node has fewer GPUs than
    ranks; TransientError `RanksMissing` if the nodes do not find each other.
    """
    layout = workspace.spec.ranks
    _check_gpus(workspace.spec)
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
    codes, asked = _torchrun(layout, node, [str(file)], directory / "logs", task.attempt, workspace.check_stop)
    if task.corrupt.exists():
        workspace.checkpoints.corrupt += int(task.corrupt.read_text())
    if task.result.exists():
        return RESULT.validate_json(task.result.read_bytes())
    if codes or node == 0:
        found = failure(workspace.spec, codes, _reports(task), _grown(kills, oom_kills()))
        # Asked to stop while they load the model, they do not end at the same time.
        raise Terminated if asked and found.reason == RANK_LOST else found
    return None


def first_node_waits(over: Callable[[], bool], pause: Callable[[float], None]) -> bool:
    """Wait until the first node can be reached, which has then claimed the stage. False if the stage is `over` before.

    Raises what `pause` raises.
    """
    told = False
    while not over():
        try:
            with socket.create_connection((_address(), _port()), timeout=LOOK):
                return True
        except OSError as error:
            if not told:
                log.info("waits for the first node, %s:%d (%s)", _address(), _port(), error)
            told = True
            pause(LOOK)
    return False


def environment(layout: RankLayout, given: Mapping[str, str], cores: int) -> dict[str, str]:
    """Variables of the ranks of one node: each has its part of the cores, and on one node they talk on the loopback."""
    threads = given.get("OMP_NUM_THREADS", "")
    available = int(threads) if threads.isdecimal() and int(threads) else cores
    alone = {} if layout.nodes > 1 else {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    variables = {name: value for name, value in alone.items() if name not in given}
    return {**variables, "OMP_NUM_THREADS": str(max(1, available // layout.processes))}


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


def _check_gpus(spec: StageSpec) -> None:
    given = int(os.environ.get(GPUS_VARIABLE, "0"))
    if 0 < given < spec.ranks.processes:
        raise PermanentError(
            "GpuMissing",
            f"{spec.kind}.processes is {spec.ranks.processes} and the Pod has {given} GPU(s): each process needs one, so "
            f"request as many in {spec.kind}.pod.resources.limits, or lower {spec.kind}.processes",
        )


def _torchrun(
    layout: RankLayout, node: int, arguments: list[str], logs: Path, run_id: str, check_stop: Callable[[], None]
) -> tuple[dict[int, int], bool]:
    """Start the ranks of this node and wait for their end. A signal to this process goes to all of them, one that came
    before makes `check_stop` raise.

    Returns the exit code of each that has failed, and whether this process was asked to stop meanwhile.
    """
    # They take seconds to import, and a stage of one process needs none of them.
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    config = _config(layout, node, logs, run_id)
    try:
        with _as_it_was(environment(layout, os.environ, allowed_cores())):
            check_stop()
            elastic_launch(config, sys.executable)("-P", "-m", "evolution_jobs.rank", *arguments)
    except ChildFailedError as error:
        return {rank: failed.exitcode for rank, failed in error.failures.items()}, False
    except SignalException as error:
        first = node * layout.processes
        return dict.fromkeys(range(first, first + layout.processes), -int(error.sigval)), True
    except (RuntimeError, RendezvousError) as error:
        if layout.nodes == 1:
            raise TransientError("RanksMissing", f"torchrun did not start the processes: {words_of(error)}") from error
        raise TransientError(
            "RanksMissing",
            f"{layout.nodes} node(s) did not find each other at {config.rdzv_endpoint} within {PATIENCE} s: all Pods must "
            "run at the same time, and a NetworkPolicy must let them reach each other on every port",
        ) from error
    return {}, False


def _config(layout: RankLayout, node: int, logs: Path, run_id: str) -> LaunchConfig:
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    visible = torch.cuda.device_count()
    if 0 < visible < layout.processes:
        raise PermanentError(
            "GpuMissing",
            f"processes is {layout.processes} and this node shows {visible} GPU(s): each process needs one, so give it "
            "more (CUDA_VISIBLE_DEVICES), or lower processes",
        )
    # The first node listens on all its addresses, and its name may not be known yet.
    address = _address() if node else LOOPBACK
    alone: dict[str, Any] = {"run_id": run_id, "rdzv_endpoint": f"{LOOPBACK}:{_free_port()}", "local_addr": LOOPBACK}
    together: dict[str, Any] = {"run_id": "ranks", "rdzv_endpoint": f"{address}:{_port()}"}
    return LaunchConfig(
        min_nodes=layout.nodes,
        max_nodes=layout.nodes,
        nproc_per_node=layout.processes,
        # The planner retries, from the newest checkpoint.
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs)),
        # torchrun's dynamic backends unpickle what any process can write into their store.
        rdzv_backend="static",
        rdzv_configs={"rank": node, "timeout": PATIENCE},
        # Every rank has one GPU, which it sees as the first.
        virtual_local_rank=visible > 0,
        # Ranks that are asked to stop end once they have saved; whoever asked ends this process if it takes too long.
        shutdown_timeout=24 * 3600,
        signals_to_handle="SIGTERM,SIGINT",
        **(together if layout.nodes > 1 else alone),
    )


@contextmanager
def _as_it_was(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the ranks; afterwards, they and the signals that torchrun handles are as before."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    replaced = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, value in replaced.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _address() -> str:
    return os.environ.get(MASTER_ADDRESS_VARIABLE, LOOPBACK)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _port() -> int:
    return int(os.environ.get(MASTER_PORT_VARIABLE, "29500"))
