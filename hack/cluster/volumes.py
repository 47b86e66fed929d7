"""Volumes of the node: a default StorageClass, and PersistentVolumes in folders of the node's state folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from hack.cluster.control_plane import ControlPlane
from hack.cluster.kubelet import NODE

STORAGE_CLASS = "node"
COUNT = 8
CAPACITY = "100Gi"
"""Capacity of each. Nothing enforces it: all share the host's disk."""
NAMES = tuple(f"volume-{number}" for number in range(1, COUNT + 1))


class Volumes:
    """A fixed number of volumes. Each claim takes one.

    Args:
        directory: contains a folder for each volume.
        control_plane: must be started first.
    """

    def __init__(self, directory: Path, control_plane: ControlPlane) -> None:
        self.directory = directory
        self._control_plane = control_plane

    def folder(self, name: str) -> Path:
        """The folder of a volume's files on this host."""
        return self.directory / name

    def start(self) -> None:
        """Create all volumes. If a volume's claim is gone, empty the volume and create it again.

        Raises:
            ClusterError: the API server refused them.
        """
        for name in self._released():
            self._control_plane.kubectl("delete", "persistentvolume", name)
            _empty(self.folder(name))
        for name in NAMES:
            self.folder(name).mkdir(parents=True, exist_ok=True)
        items = [_storage_class(), *(_volume(name, self.folder(name)) for name in NAMES)]
        manifest = {"apiVersion": "v1", "kind": "List", "items": items}
        self._control_plane.kubectl("apply", "--server-side", "--filename=-", manifest=manifest)

    def _released(self) -> list[str]:
        found = json.loads(self._control_plane.kubectl("get", "persistentvolumes", "--output=json"))["items"]
        released = {each["metadata"]["name"] for each in found if each["status"].get("phase") == "Released"}
        return [name for name in NAMES if name in released]


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _storage_class() -> dict[str, object]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "reclaimPolicy": "Retain",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def _volume(name: str, folder: Path) -> dict[str, object]:
    # "local" and not "hostPath": only then does the kubelet apply a Pod's fsGroup.
    on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": STORAGE_CLASS,
            "capacity": {"storage": CAPACITY},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        },
    }
