"""Nodes and Pods without containers, simulated by KWOK (kwok.sigs.k8s.io), to test controllers fast.

A Pod scheduled on such a node runs at once and succeeds, unless its annotations choose otherwise:

=================================  ===========================================================
``kwok.evolution.run/outcome``     ``succeed`` (default), ``fail``, or ``run``: stay running until
                                   the annotation is changed or the Pod is deleted
``kwok.evolution.run/after``       how long it runs first, a Go duration such as ``500ms``
``kwok.evolution.run/exit-code``   of each container when it fails, default ``1``
``kwok.evolution.run/message``     termination message of each container
=================================  ===========================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from hack.cluster.binaries import program
from hack.cluster.control_plane import ControlPlane
from hack.cluster.processes import Process, environment, wait_until

STAGES = Path(__file__).with_name("kwok-stages.yaml")
CAPACITY = {"cpu": "64", "memory": "512Gi", "pods": "500", "nvidia.com/gpu": "8"}


class Kwok:
    """KWOK on a control plane, with nodes ``kwok-0``, ``kwok-1`` and so on.

    Args:
        control_plane: must be started first and stopped last.
        nodes: their number. Each has `CAPACITY`.
    """

    def __init__(self, control_plane: ControlPlane, nodes: int = 1) -> None:
        self._control_plane = control_plane
        self.nodes = tuple(f"kwok-{index}" for index in range(nodes))
        self.process = Process("kwok", control_plane.directory, tied=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Create the nodes, start KWOK and wait until Pods can be scheduled on each node.

        Raises:
            ClusterError: KWOK could not be built or started.
        """
        # Its own user, so that the audit log shows which calls are KWOK's.
        kubeconfig = self._control_plane.kubeconfig_for("kwok", ["system:masters"])
        items = [_node(name) for name in self.nodes]
        manifest = {"apiVersion": "v1", "kind": "List", "items": items}
        self._control_plane.kubectl("apply", "--filename=-", manifest=manifest)
        command: list[str | Path] = [program("kwok"), f"--kubeconfig={kubeconfig}"]
        command += [f"--config={STAGES}", "--manage-all-nodes=false", "--server-address="]
        command += ["--manage-nodes-with-label-selector=type=kwok"]
        self.process.start(command, environment())
        wait_until(lambda: self._control_plane.schedulable(*self.nodes), "KWOK nodes ready", [self.process])

    @contextmanager
    def joined(self, name: str) -> Iterator[None]:
        """One more node for a while. Its Pods are lost with it."""
        self._control_plane.kubectl("apply", "--filename=-", manifest=_node(name))
        try:
            wait_until(lambda: self._control_plane.schedulable(name), f"node {name} ready", [self.process])
            yield
        finally:
            self._control_plane.kubectl("delete", "node", name)

    def stop(self) -> None:
        """Stop KWOK. Its nodes remain, but their heartbeats stop."""
        self.process.stop()


def _node(name: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"type": "kwok", "kubernetes.io/hostname": name},
        },
        "status": {"capacity": CAPACITY, "allocatable": CAPACITY},
    }
