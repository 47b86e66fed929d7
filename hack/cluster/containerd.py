"""The node's container runtime, separate from any containerd that the host already runs."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
from pathlib import Path

from hack.cluster import ClusterError
from hack.cluster.host import POD_RANGE, cni_folder, run, succeeds, unmount_below
from hack.cluster.image_names import full_name
from hack.cluster.processes import Process, wait_until

RUNTIME = Path("/run/evolution-operator/node")  # the path of a socket has at most 107 bytes
PAUSE_IMAGE = "localhost/evolution-operator/pause:1"
NETWORK = "evolution"
RESULTS = Path("/var/lib/cni/results")  # where libcni records the addresses that it assigned
PINNED = "io.cri-containerd.pinned=pinned"


class Containerd:
    """containerd with the CRI plugin, runc and a point-to-point network for Pods.

    Args:
        directory: an existing folder for its images, containers, log and record.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._root = directory / "containerd"
        self._networks = directory / "cni"
        self.socket = RUNTIME / "containerd.sock"
        self.process = Process("containerd", directory, tied=False)

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ClusterError: containerd is missing or did not start.
        """
        for folder in (self._root, self._networks, RUNTIME):
            folder.mkdir(parents=True, exist_ok=True)
        (self._networks / f"{NETWORK}.conflist").write_text(json.dumps(self._network()))
        configuration = self._directory / "containerd.toml"
        configuration.write_text(self._configuration())
        # The user's own environment: an image may have to be pulled through a proxy.
        self.process.start(["containerd", f"--config={configuration}"], os.environ)
        wait_until(lambda: succeeds(self._ctr("version")), "containerd answers", [self.process])

    def load(self, archive: Path) -> list[str]:
        """Load the images of an OCI or Docker archive. Returns their full names, by which the kubelet finds them.

        They are pinned. Otherwise the kubelet would delete an unused image, and it could not be pulled again.

        Raises:
            ClusterError: the archive cannot be read.
        """
        before = self._images()
        run(self._ctr("images", "import", str(archive)))
        for name in self._images():
            try:
                full = full_name(name)
            except ValueError as error:
                raise ClusterError(f"{archive}: {error}") from error
            if name != full:
                self.tag(name, full)
                run(self._ctr("images", "remove", name))
        loaded = self._images()
        for name in loaded:
            run(self._ctr("images", "label", name, PINNED))
        return sorted(name for name, digest in loaded.items() if before.get(name) != digest)

    def tag(self, name: str, other: str) -> None:
        """Add a name to a loaded image, and pin it. An image that already has this name loses it."""
        run(self._ctr("images", "tag", "--force", name, other))
        run(self._ctr("images", "label", other, PINNED))

    def has(self, image: str) -> bool:
        """Whether an image with this full name is loaded."""
        return image in self._images()

    def _images(self) -> dict[str, str]:
        """Names and digests of its images, without the names that the CRI plugin makes from their ids."""
        lines = [line.split() for line in run(self._ctr("images", "list")).splitlines()[1:]]
        return {words[0]: words[2] for words in lines if not words[0].startswith("sha256:")}

    def stop(self) -> None:
        """Stop containerd. Then end processes and unmount volumes that Pods have left."""
        self.process.stop()
        for shim in self._shims():
            for pid in [*_descendants(shim), shim]:
                _kill(pid)
        _end_networks()
        unmount_below(RUNTIME)
        shutil.rmtree(RUNTIME, ignore_errors=True)

    def _ctr(self, *arguments: str) -> list[str]:
        return ["ctr", f"--address={self.socket}", "--namespace=k8s.io", *arguments]

    def _shims(self) -> list[int]:
        """A container's parent is its shim, which outlives containerd."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b"containerd-shim" in words[0] and str(self.socket).encode() in words:
                found.append(int(entry.name))
        return found

    def _configuration(self) -> str:
        values = {
            "root": self._root,
            "state": RUNTIME / "state",
            "socket": self.socket,
            "pause": PAUSE_IMAGE,
            "plugins": cni_folder(),
            "networks": self._networks,
        }
        return CONFIGURATION.format_map({name: json.dumps(str(value)) for name, value in values.items()})

    def _network(self) -> dict[str, object]:
        addresses = {
            "type": "host-local",
            "dataDir": str(self._directory / "addresses"),
            "ranges": [[{"subnet": POD_RANGE}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        return {
            "cniVersion": "1.0.0",
            "name": NETWORK,
            "plugins": [{"type": "ptp", "ipam": addresses}],
        }


# restrict_oom_score_adj: without CAP_SYS_RESOURCE runc may not lower a score below its own.
CONFIGURATION = """\
version = 2
root = {root}
state = {state}

[grpc]
address = {socket}

[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
sandbox_image = {pause}

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {plugins}
conf_dir = {networks}
"""


def _end_networks() -> None:
    """Delete network namespaces of Pods that did not end cleanly, and libcni's records of them."""
    for note in RESULTS.glob(f"{NETWORK}-*"):
        for interface in json.loads(note.read_text())["result"]["interfaces"]:
            if "sandbox" in interface:
                succeeds(["ip", "netns", "delete", Path(interface["sandbox"]).name])
        container = note.name.split("-")[1]
        for path in RESULTS.glob(f"*-{container}-*"):
            path.unlink()


def _descendants(pid: int) -> list[int]:
    """The descendants of a process, the oldest first."""
    try:
        lines = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except (FileNotFoundError, ProcessLookupError):
        return []
    children = [int(word) for line in lines for word in line.split()]
    return [found for child in children for found in (child, *_descendants(child))]


def _kill(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [])
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
