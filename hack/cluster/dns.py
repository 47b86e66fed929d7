"""DNS for Services: CoreDNS as a process of the host, behind the Service ``kube-dns``."""

from __future__ import annotations

from pathlib import Path

from hack.cluster.binaries import program
from hack.cluster.control_plane import ControlPlane
from hack.cluster.host import NODE_ADDRESS
from hack.cluster.processes import Process, environment, listens, wait_until

DOMAIN = "cluster.local"
DNS_SERVICE_ADDRESS = "10.96.0.10"
USER = "coredns"
PORT = 10053  # the host's own resolver may use port 53 on every address
NAMES = {"name": "kube-dns", "namespace": "kube-system"}
CONFIGURATION = """\
.:{port} {{
    bind {address}
    errors
    kubernetes {domain} in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
        fallthrough in-addr.arpa ip6.arpa
    }}
    forward . /etc/resolv.conf
    cache 30
}}
"""


class Dns:
    """CoreDNS.

    Args:
        directory: an existing folder for its configuration, log and record.
        control_plane: must be started first.
    """

    def __init__(self, directory: Path, control_plane: ControlPlane) -> None:
        self._directory = directory
        self._control_plane = control_plane
        self.process = Process("coredns", directory, tied=False)

    def start(self) -> None:
        """Create its Service, start CoreDNS and wait until it listens.

        Raises:
            ClusterError: CoreDNS could not be built or started, or the API server refused the Service.
        """
        self._control_plane.kubectl("apply", "--server-side", "--filename=-", manifest=_manifest())
        configuration = self._directory / "Corefile"
        configuration.write_text(
            CONFIGURATION.format(
                port=PORT,
                address=NODE_ADDRESS,
                domain=DOMAIN,
                kubeconfig=self._control_plane.kubeconfig_for(USER),
            )
        )
        self.process.start([program("coredns"), f"-conf={configuration}"], environment())
        wait_until(lambda: listens(NODE_ADDRESS, PORT), "CoreDNS listens", [self.process])


def _manifest() -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "List", "items": [*_rights(), *_service()]}


def _rights() -> list[dict[str, object]]:
    name = {"name": "coredns"}
    verbs = ["list", "watch"]
    return [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": name,
            "rules": [
                {"apiGroups": [""], "resources": ["namespaces", "pods", "services"], "verbs": verbs},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": verbs},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": name,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", **name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
        },
    ]


def _service() -> list[dict[str, object]]:
    """A Service without a selector, and the EndpointSlice that sends its traffic to the host."""
    protocols = {"dns": "UDP", "dns-tcp": "TCP"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": NAMES,
            "spec": {
                "clusterIP": DNS_SERVICE_ADDRESS,
                "ports": [
                    {"name": name, "protocol": protocol, "port": 53, "targetPort": PORT}
                    for name, protocol in protocols.items()
                ],
            },
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**NAMES, "labels": {"kubernetes.io/service-name": NAMES["name"]}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [NODE_ADDRESS]}],
            "ports": [{"name": name, "protocol": protocol, "port": PORT} for name, protocol in protocols.items()],
        },
    ]
