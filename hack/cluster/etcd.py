"""The control plane's store: one etcd member that accepts only certificates of its own authority."""

from __future__ import annotations

from pathlib import Path

from hack.cluster.binaries import program
from hack.cluster.certificates import Authority
from hack.cluster.processes import Process, environment, listens, wait_until


class Etcd:
    """One etcd.

    It has its own certificate authority, so clients of the API server cannot read etcd.

    Args:
        directory: an existing folder for its data, log and record.
        pki: a folder for certificates.
        address: the IP address it binds.
        port: for clients.
        peer_port: for other members. There are none, but etcd listens on it anyway.
        tied: end with this interpreter, however it ends.
    """

    def __init__(self, directory: Path, pki: Path, *, address: str, port: int, peer_port: int, tied: bool) -> None:
        self.process = Process("etcd", directory, tied=tied)
        self._data = directory / "etcd"
        self._authority = Authority(pki, "etcd-ca")
        self._pair = self._authority.issue("etcd", "etcd", hosts=[address])
        self._address = (address, port)
        self._client = f"https://{address}:{port}"
        self._peer = f"https://{address}:{peer_port}"

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            ClusterError: etcd could not be built or started.
        """
        command: list[str | Path] = [
            program("etcd"),
            f"--data-dir={self._data}",
            f"--listen-client-urls={self._client}",
            f"--advertise-client-urls={self._client}",
            f"--listen-peer-urls={self._peer}",
            f"--initial-advertise-peer-urls={self._peer}",
            f"--initial-cluster=default={self._peer}",
            "--client-cert-auth",
            f"--trusted-ca-file={self._authority.pair.certificate}",
            f"--cert-file={self._pair.certificate}",
            f"--key-file={self._pair.key}",
            "--peer-client-cert-auth",
            f"--peer-trusted-ca-file={self._authority.pair.certificate}",
            f"--peer-cert-file={self._pair.certificate}",
            f"--peer-key-file={self._pair.key}",
            # Without fsync data survives a killed process but no crash of the host. That is enough here.
            "--unsafe-no-fsync",
        ]
        self.process.start(command, environment())
        wait_until(lambda: listens(*self._address), "etcd listens", [self.process])

    def client_flags(self) -> list[str]:
        """Flags with which the API server reaches it."""
        return [
            f"--etcd-servers={self._client}",
            f"--etcd-cafile={self._authority.pair.certificate}",
            f"--etcd-certfile={self._pair.certificate}",
            f"--etcd-keyfile={self._pair.key}",
        ]
