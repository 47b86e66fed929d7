"""One node and its control plane on this host. Its state is a folder that `down` removes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from hack.cluster import ClusterError, host
from hack.cluster.binaries import CACHE, ensure, program
from hack.cluster.containerd import PAUSE_IMAGE, Containerd
from hack.cluster.control_plane import PROGRAMS, ControlPlane, Ports
from hack.cluster.dns import Dns
from hack.cluster.images import export, program_archive
from hack.cluster.kubelet import NODE, Kubelet, Proxy
from hack.cluster.processes import Process
from hack.cluster.volumes import Volumes

STATE = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "evolution-operator" / "cluster"
LOAD_PATIENCE = 600.0
"""Seconds that loading an image waits for a node that is starting."""
POLL = 0.2


class Node:
    """A cluster of one node.

    Args:
        state: the folder of its files. `up` creates it and `down` removes it.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self.control_plane = ControlPlane(state, address=host.NODE_ADDRESS, ports=Ports(), tied=False)
        self.containerd = Containerd(state)
        self.kubelet = Kubelet(state, self.control_plane, self.containerd.socket)
        self.proxy = Proxy(state, self.control_plane)
        self.dns = Dns(state, self.control_plane)
        self.volumes = Volumes(state / "volumes", self.control_plane)

    @property
    def processes(self) -> tuple[Process, ...]:
        """The components in the order in which they start."""
        runtime = self.containerd.process
        return (
            runtime,
            *self.control_plane.processes,
            self.kubelet.process,
            self.proxy.process,
            self.dns.process,
        )

    def up(self) -> None:
        """Start components that do not run, and wait until Pods can run.

        Raises:
            ClusterError: another kubelet runs on this host, or a component did not start. Those that
                started keep running, for another attempt or for `down`.
        """
        if self.kubelet.process.pid is None and not self.kubelet.volumes.exists():
            host.refuse_rival()
        ensure([*PROGRAMS, "etcd", "kubelet", "kube-proxy", "coredns", "pause"])
        host.connect(self.state)
        _timed("containerd", self.containerd.start)
        _timed("pause image", self._load_pause)
        _timed("control plane", self.control_plane.start)
        _timed("kubelet", self.kubelet.start)
        _timed("kube-proxy", self.proxy.start)
        _timed("CoreDNS", self.dns.start)
        _timed("volumes", self.volumes.start)

    def down(self) -> None:
        """Delete the Pods, stop all components, undo the changes to the host and remove the state.

        Raises:
            ClusterError: something is still in use, so the files are kept.
        """
        self.control_plane.scheduler.stop()  # so that no replacement of a Pod starts
        _timed("Pods deleted", self._delete_pods)
        _timed("kubelet stopped", self.kubelet.stop)
        _timed("kube-proxy stopped", self.proxy.stop)
        _timed("CoreDNS stopped", self.dns.process.stop)
        _timed("control plane stopped", self.control_plane.stop)
        _timed("containerd stopped", self.containerd.stop)
        _timed("host as before", self._restore_host)
        _timed("state removed", lambda: shutil.rmtree(self.state))
        print("the node is down", flush=True)

    def load(self, archive: Path) -> None:
        """Load the images of an archive into the node.

        Raises:
            ClusterError: the node is not up, or the archive cannot be read.
        """
        if self.containerd.process.pid is None:
            raise ClusterError("no node to load images into: run `python -m hack.cluster up` first")
        names = self.containerd.load(archive)
        print("\n".join(f"loaded {name}" for name in names) or f"{archive}: its images are loaded already", flush=True)

    def load_image(self, tag: str, identity: str) -> None:
        """Load an image that was built on this host, unless the node already has it.

        Args:
            tag: its full name.
            identity: its id.
        """
        record = self.state / "images.json"
        loaded = json.loads(record.read_text()) if record.exists() else {}
        same = [name for name, each in loaded.items() if each == identity and self.containerd.has(name)]
        if tag in same:
            print(f"{tag} is loaded already", flush=True)
            return
        if same:
            self.containerd.tag(same[0], tag)
            print(f"loaded {tag}, the same image as {same[0]}", flush=True)
            record.write_text(json.dumps({**loaded, tag: identity}))
            return
        # An image may have gigabytes, and /tmp may be in memory.
        with tempfile.TemporaryDirectory(prefix="image-", dir=CACHE) as folder:
            archive = Path(folder) / "image.tar"
            export(tag, archive)
            self.load(archive)
        record.write_text(json.dumps({**loaded, tag: identity}))

    def load_program(self, name: str, image: str) -> None:
        """Load a static program of `binaries` into the node, as an image with this full name."""
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "image.tar"
            program_archive(program(name), image, archive)
            self.load(archive)

    def _restore_host(self) -> None:
        host.disconnect(self.state)
        host.unmount_below(self.state)
        host.remove_control_groups()

    def _load_pause(self) -> None:
        if not self.containerd.has(PAUSE_IMAGE):
            self.load_program("pause", PAUSE_IMAGE)

    def _delete_pods(self) -> None:
        if self.control_plane.apiserver.pid is None or self.kubelet.process.pid is None:
            return
        where = ["--all-namespaces", f"--field-selector=spec.nodeName={NODE}"]
        try:
            self.control_plane.kubectl("delete", "pods", *where, "--grace-period=5", "--timeout=60s")
        except ClusterError as error:
            print(f"{error}\nwhat is left of the Pods is killed", flush=True)


@contextlib.contextmanager
def locked(state: Path, patience: float = 0) -> Iterator[None]:
    """Prevent other commands from changing the node at the same time.

    Args:
        state: the node's folder.
        patience: seconds to wait for another command that is changing the node, for example `up`.

    Raises:
        ClusterError: another command still holds the lock after ``patience``.
    """
    state.parent.mkdir(parents=True, exist_ok=True)
    with state.with_suffix(".lock").open("w") as lock:
        if patience and not _take(lock):
            print(f"another command is changing this node: waiting up to {patience / 60:.0f} min for it", flush=True)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline and not _take(lock):
                time.sleep(POLL)
        if not _take(lock):
            raise ClusterError("another command is changing this node: try again once it has ended")
        yield


def _take(lock: IO[str]) -> bool:
    """Try to take the lock. Returns whether this process has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _timed(what: str, act: Callable[[], None]) -> None:
    started = time.monotonic()
    act()
    print(f"{what}: {time.monotonic() - started:.1f} s", flush=True)
