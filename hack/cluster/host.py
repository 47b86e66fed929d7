"""What a node needs from its host: Debian packages, network devices, forwarding, and no other kubelet."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hack.cluster import ClusterError

# Endpoints may not contain a loopback address, so node and API server have a network device of their own.
NODE_ADDRESS = "10.99.0.1"
NODE_DEVICE = "evolution0"
POD_RANGE = "10.244.0.0/24"
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")

NODE_PROGRAMS: Mapping[str, str] = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "ptp": "containernetworking-plugins",
}
IMAGE_PROGRAMS: Mapping[str, str] = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}


def require(programs: Mapping[str, str]) -> None:
    """Check that each program is installed. ``programs`` maps a program's name to its Debian package.

    Missing packages are installed if the host has apt-get.

    Raises:
        ClusterError: not root, or a package is missing and could not be installed.
    """
    if os.geteuid() != 0:
        raise ClusterError("a node needs root, for mounts and network devices: run this as root, or use kind")
    missing = sorted({package for name, package in programs.items() if _find(name) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise ClusterError(f"install these packages first: {' '.join(missing)}")
    print(f"installing {' '.join(missing)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "--quiet"], environment=environment)
    run(["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing], environment=environment)


def cni_folder() -> Path:
    """The folder of the CNI plugins.

    Raises:
        ClusterError: they are in no known folder.
    """
    plugin = _find("ptp")
    if plugin is None:
        raise ClusterError(f"no CNI plugins in {' or '.join(map(str, CNI_FOLDERS))}")
    return plugin.parent


def refuse_rival() -> None:
    """Check that no other kubelet runs on this host. Each would kill the other's Pods.

    Raises:
        ClusterError: control groups of another kubelet exist.
    """
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")):
        if (root / "kubepods").exists():
            raise ClusterError(
                f"{root / 'kubepods'} exists, so another kubelet runs on this host, and the two would end"
                " each other's Pods: stop it, or remove that folder if it was left behind"
            )


def connect(state: Path) -> None:
    """Create the node's network device and address, enable forwarding, and masquerade Pods' traffic.

    ``state`` is a folder that records the host's settings, so that `disconnect` can restore them.
    """
    if not Path(f"/sys/class/net/{NODE_DEVICE}").exists():
        run(["ip", "link", "add", NODE_DEVICE, "type", "bridge"])
        run(["ip", "address", "add", f"{NODE_ADDRESS}/32", "dev", NODE_DEVICE])
        run(["ip", "link", "set", NODE_DEVICE, "up"])
    before = state / "ip_forward"
    if not before.exists():
        before.write_text(FORWARDING.read_text())
    FORWARDING.write_text("1")
    if not succeeds(_masquerade("--check")):
        run(_masquerade("--append"))


def disconnect(state: Path) -> None:
    """Undo `connect`. Skips what does not exist."""
    if shutil.which("iptables") and succeeds(_masquerade("--check")):
        run(_masquerade("--delete"))
    before = state / "ip_forward"
    if before.exists():
        FORWARDING.write_text(before.read_text())
        before.unlink()
    if Path(f"/sys/class/net/{NODE_DEVICE}").exists():
        run(["ip", "link", "delete", NODE_DEVICE])


def remove_chain(chain: str, *callers: str) -> None:
    """Remove a chain of the filter table and the jumps to it. Skips what does not exist."""
    for caller in callers:
        succeeds(["iptables", "--wait", "--delete", caller, "--jump", chain])
    succeeds(["iptables", "--wait", "--flush", chain])
    succeeds(["iptables", "--wait", "--delete-chain", chain])


def unmount_below(folder: Path) -> None:
    """Unmount everything below ``folder``, so that removing it deletes no files of other file systems.

    Raises:
        ClusterError: something is still mounted.
    """
    for mount in reversed(_mounts_below(folder)):
        succeeds(["umount", "--lazy", str(mount)])
    if left := _mounts_below(folder):
        raise ClusterError(f"still mounted, so {folder} is kept: {' '.join(map(str, left))}")


def remove_control_groups() -> None:
    """Remove the kubelet's control groups. They are empty once its Pods have ended."""
    for root in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*")):
        top = root / "kubepods"
        if top.is_dir():
            for folder, _, _ in os.walk(top, topdown=False):
                Path(folder).rmdir()


def run(argv: Sequence[str | Path], *, environment: Mapping[str, str] | None = None) -> str:
    """Run a command and return its output.

    Raises:
        ClusterError: it failed. The message is the command's.
    """
    result = subprocess.run(
        argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode:
        message = result.stderr.strip() or result.stdout.strip()
        raise ClusterError(f"{' '.join(map(str, argv))}: {message}")
    return result.stdout


def succeeds(argv: Sequence[str | Path]) -> bool:
    """Whether a command exits with status 0."""
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def _find(name: str) -> Path | None:
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, CNI_FOLDERS)))
    return Path(found) if found else None


def _masquerade(action: str) -> list[str]:
    rule = ["--source", POD_RANGE, "!", "--destination", POD_RANGE, "--jump", "MASQUERADE"]
    return ["iptables", "--wait", "--table", "nat", action, "POSTROUTING", *rule]


def _mounts_below(folder: Path) -> list[Path]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    paths = [Path(point.encode().decode("unicode_escape")) for point in points]
    return [path for path in paths if path.is_relative_to(folder)]
