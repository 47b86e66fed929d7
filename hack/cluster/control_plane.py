"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler as processes of this host."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import random
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from hack.cluster import ClusterError
from hack.cluster.binaries import ensure, program
from hack.cluster.certificates import Authority, token_key, write_kubeconfig
from hack.cluster.etcd import Etcd
from hack.cluster.processes import Process, environment, wait_until

PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
ISSUER = "https://kubernetes.default.svc.cluster.local"
# Below the ports that Linux gives to outgoing connections (32768 up) and to NodePorts (30000 up),
# so a port stays free while its server restarts.
FREE_PORTS = range(20000, 30000)


@dataclass(frozen=True)
class Ports:
    """The port of each server. The defaults are those of the upstream programs."""

    etcd: int = 2379
    etcd_peer: int = 2380
    apiserver: int = 6443
    controller_manager: int = 10257
    scheduler: int = 10259

    @classmethod
    def free(cls, address: str) -> Self:
        """Ports on which nothing listens at the moment."""
        return cls(*(port for port in _free_ports(address, 5)))


class ControlPlane:
    """A control plane with RBAC, Node authorization and its own certificate authority.

    A context manager: it starts on entry and stops on exit. By default it listens on loopback, keeps its
    files in a temporary folder that `stop` removes, and ends with this interpreter.

    Attributes:
        kubeconfig: path of the kubeconfig of a member of ``system:masters``. It exists after `start`.
        audit_log: path of the audit log at Metadata level: one audit.k8s.io/v1 Event in JSON on each line,
            written before the response is sent.
        authority: signs its clients' certificates.
        server: the API server's URL.

    Args:
        directory: the folder of all its files. `stop` keeps it. None: a temporary one.
        address: the IP address that it binds and that the API server advertises.
        ports: free ones if not given.
        tied: end with this interpreter, however it ends.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        address: str = "127.0.0.1",
        ports: Ports | None = None,
        tied: bool = True,
    ) -> None:
        self._temporary = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="control-plane-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.address = address
        self.ports = ports or Ports.free(address)
        self.server = f"https://{address}:{self.ports.apiserver}"
        self.kubeconfig = self.directory / "admin.kubeconfig"
        self.audit_log = self.directory / "audit.log"
        self._pki = self.directory / "pki"
        self.authority = Authority(self._pki, "kubernetes-ca")
        self._admin = self.authority.issue("admin", "admin", organizations=["system:masters"])
        self.etcd = Etcd(
            self.directory,
            self._pki,
            address=address,
            port=self.ports.etcd,
            peer_port=self.ports.etcd_peer,
            tied=tied,
        )
        self.apiserver = Process("kube-apiserver", self.directory, tied=tied)
        self.controller_manager = Process("kube-controller-manager", self.directory, tied=tied)
        self.scheduler = Process("kube-scheduler", self.directory, tied=tied)

    @property
    def processes(self) -> tuple[Process, ...]:
        """The processes in the order in which they start. They stop in reverse order."""
        return (self.etcd.process, self.apiserver, self.controller_manager, self.scheduler)

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
        """Start processes that do not run, and wait until Pods can be created.

        Raises:
            ClusterError: a program is missing or did not become ready. The message holds its log.
        """
        ensure(PROGRAMS)
        write_kubeconfig(self.kubeconfig, self.server, self.authority.pair.certificate, self._admin)
        self.etcd.start()
        self.start_apiserver()
        self._start_controller_manager()
        self._start_scheduler()
        wait_until(self._settled, "control plane ready", self.processes)

    def stop(self) -> None:
        """Stop every process, the API server before etcd, and remove a temporary folder."""
        self.scheduler.stop()
        self.controller_manager.stop()
        self.stop_apiserver()
        self.etcd.process.stop()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def stop_apiserver(self) -> None:
        """Stop only the API server. Its address refuses connections until `start_apiserver`."""
        # It holds no state. After SIGTERM it would wait up to a minute for its clients' watches to end.
        self.apiserver.stop(grace=1)

    def start_apiserver(self) -> None:
        """Start the API server again at the same address, and wait until it is ready."""
        self.apiserver.start(self._apiserver_command(), environment())
        wait_until(
            lambda: self._answers(self.ports.apiserver, "/readyz"),
            "kube-apiserver ready",
            [self.etcd.process, self.apiserver],
        )

    def restart_apiserver(self) -> None:
        """Restart the API server, which closes every watch."""
        self.stop_apiserver()
        self.start_apiserver()

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig that authenticates as ``user``, a member of ``groups`` only."""
        name = hashlib.sha256(json.dumps([user, *groups]).encode()).hexdigest()[:16]
        pair = self.authority.issue(name, user, organizations=groups)
        path = self.directory / f"{name}.kubeconfig"
        return write_kubeconfig(path, self.server, self.authority.pair.certificate, pair)

    def kubectl(self, *arguments: str, manifest: object = None) -> str:
        """Run kubectl as the administrator. Returns its output. ``manifest`` is its standard input, as JSON.

        Raises:
            ClusterError: kubectl failed. The message is kubectl's.
        """
        result = subprocess.run(
            [program("kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=None if manifest is None else json.dumps(manifest),
            stdin=subprocess.DEVNULL if manifest is None else None,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            message = result.stderr.strip() or result.stdout.strip()
            raise ClusterError(f"kubectl {' '.join(arguments)}: {message}")
        return result.stdout

    def schedulable(self, *nodes: str) -> bool:
        """Whether each named node exists and has no taint. A node that is ready has none."""
        items = json.loads(self.kubectl("get", "nodes", "--output=json"))["items"]
        ready = {item["metadata"]["name"] for item in items if not item["spec"].get("taints")}
        return ready.issuperset(nodes)

    def _settled(self) -> bool:
        """Whether the controllers work: they create the first service account."""
        return (
            self._answers(self.ports.scheduler, "/healthz")
            and self._answers(self.ports.controller_manager, "/healthz")
            and self._answers(self.ports.apiserver, "/api/v1/namespaces/default/serviceaccounts/default")
        )

    def _answers(self, port: int, path: str) -> bool:
        context = ssl.create_default_context(cafile=self.authority.pair.certificate)
        context.load_cert_chain(self._admin.certificate, self._admin.key)
        connection = http.client.HTTPSConnection(self.address, port, timeout=5, context=context)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _apiserver_command(self) -> list[str | Path]:
        hosts = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        hosts += ["kubernetes.default.svc.cluster.local", API_SERVICE_ADDRESS, self.address]
        pair = self.authority.issue("kube-apiserver", "kube-apiserver", hosts=hosts)
        kubelet = self.authority.issue("kube-apiserver-kubelet", "kube-apiserver", organizations=["system:masters"])
        tokens = token_key(self._pki, "service-accounts")
        # Endpoints may not contain a loopback address.
        loopback = ipaddress.ip_address(self.address).is_loopback
        return [
            program("kube-apiserver"),
            *self.etcd.client_flags(),
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={self.ports.apiserver}",
            f"--endpoint-reconciler-type={'none' if loopback else 'lease'}",
            f"--tls-cert-file={pair.certificate}",
            f"--tls-private-key-file={pair.key}",
            f"--client-ca-file={self.authority.pair.certificate}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={tokens.certificate}",
            f"--service-account-signing-key-file={tokens.key}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--authorization-mode=Node,RBAC",
            # OpenShift enables the second one: an owner reference that blocks deletion needs the
            # right to update the owner's finalizers.
            "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement",
            "--allow-privileged=true",
            f"--kubelet-certificate-authority={self.authority.pair.certificate}",
            f"--kubelet-client-certificate={kubelet.certificate}",
            f"--kubelet-client-key={kubelet.key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--audit-policy-file={self._audit_policy()}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-mode=blocking",
            "--profiling=false",
        ]

    def _audit_policy(self) -> Path:
        path = self.directory / "audit-policy.json"
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata"}],
        }
        path.write_text(json.dumps(policy))
        return path

    def _start_controller_manager(self) -> None:
        name = "kube-controller-manager"
        command: list[str | Path] = [
            program(name),
            *self._client_flags(name, self.ports.controller_manager),
            f"--root-ca-file={self.authority.pair.certificate}",
            f"--service-account-private-key-file={token_key(self._pki, 'service-accounts').key}",
            f"--cluster-signing-cert-file={self.authority.pair.certificate}",
            f"--cluster-signing-key-file={self.authority.pair.key}",
            "--use-service-account-credentials",
            # Each controller requests its own token at the start. At the default of 20 a second that takes 5 s.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]
        self.controller_manager.start(command, environment())

    def _start_scheduler(self) -> None:
        name = "kube-scheduler"
        command: list[str | Path] = [program(name), *self._client_flags(name, self.ports.scheduler)]
        self.scheduler.start(command, environment())

    def _client_flags(self, name: str, port: int) -> list[str]:
        pair = self.authority.issue(name, f"system:{name}", hosts=[self.address])
        path = self.directory / f"{name}.kubeconfig"
        write_kubeconfig(path, self.server, self.authority.pair.certificate, pair)
        return [
            f"--kubeconfig={path}",
            f"--bind-address={self.address}",
            f"--secure-port={port}",
            f"--tls-cert-file={pair.certificate}",
            f"--tls-private-key-file={pair.key}",
            "--leader-elect=false",
            "--profiling=false",
        ]


def _free_ports(address: str, count: int) -> list[int]:
    free: list[int] = []
    for port in random.SystemRandom().sample(FREE_PORTS, len(FREE_PORTS)):
        with socket.socket() as server:
            try:
                server.bind((address, port))
            except OSError:
                continue
        free.append(port)
        if len(free) == count:
            return free
    raise ClusterError(f"no {count} free ports on {address}")
