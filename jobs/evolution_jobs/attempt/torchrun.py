"""torchrun: starts the processes of this node that train together, and has them find each other.

They are told their task in a file (`attempt.in_ranks`).
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

from ..cgroup import allowed_cores
from ..contract.errors import PermanentError, TransientError
from ..contract.stage import RankLayout, StageSpec
from ..contract.variables import GPUS_VARIABLE, MASTER_ADDRESS_VARIABLE, MASTER_PORT_VARIABLE
from ..redaction import words_of

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
LOOK = 2.0
"""Seconds after which a node looks for the first one again."""
PATIENCE = 900
"""Seconds that the ranks of all nodes have to find each other."""


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


def require_gpus(spec: StageSpec, visible: int) -> None:
    """Raise PermanentError `GpuMissing` if this node has GPUs (the Pod's, of which `visible` can be used), but not one for
    each process.
    """
    given = int(os.environ.get(GPUS_VARIABLE, "0"))
    usable = min((gpus for gpus in (given, visible) if gpus), default=spec.ranks.processes)
    if usable < spec.ranks.processes:
        raise PermanentError(
            "GpuMissing",
            f"{spec.kind}.processes is {spec.ranks.processes} and {usable} GPU(s) can be used here: each process needs one, "
            f"so request as many in {spec.kind}.pod.resources.limits, or lower {spec.kind}.processes",
        )


def run_ranks(
    spec: StageSpec, node: int, arguments: list[str], logs: Path, run_id: str, check_stop: Callable[[], None]
) -> tuple[dict[int, int], bool]:
    """Start the ranks of this node and wait for their end. A signal to this process goes to all of them, one that came
    before makes `check_stop` raise.

    Returns the exit code of each that has failed, and whether this process was asked to stop meanwhile. Raises
    PermanentError `GpuMissing`; TransientError `RanksMissing` if the ranks do not find each other.
    """
    layout = spec.ranks
    # They take seconds to import, and a stage of one process needs none of them.
    import torch
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    visible = torch.cuda.device_count()
    require_gpus(spec, visible)
    config = _config(layout, node, logs, run_id, gpus=visible > 0)
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


def _config(layout: RankLayout, node: int, logs: Path, run_id: str, *, gpus: bool) -> LaunchConfig:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

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
        virtual_local_rank=gpus,
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
