"""The kubelet and kube-proxy of the one node."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

from hack.cluster.binaries import program
from hack.cluster.control_plane import ControlPlane
from hack.cluster.dns import DNS_SERVICE_ADDRESS, DOMAIN
from hack.cluster.host import NODE_ADDRESS, POD_RANGE, remove_chain, run
from hack.cluster.processes import Process, environment, wait_until

NODE = "node1"
LOG_LINKS = Path("/var/log/containers")
PROXY_HEALTH_PORT = 10256


class Kubelet:
    """The kubelet.

    Args:
        directory: an existing folder for its volumes, Pods' logs, own log and record.
        control_plane: must be started first.
        runtime: containerd's socket.
    """

    def __init__(self, directory: Path, control_plane: ControlPlane, runtime: Path) -> None:
        self._directory = directory
        self._control_plane = control_plane
        self._runtime = runtime
        self.volumes = directory / "kubelet"
        self.process = Process("kubelet", directory, tied=False)

    def start(self) -> None:
        """Start the kubelet and wait until Pods can be scheduled on the node.

        Raises:
            ClusterError: the kubelet could not be built, or the node did not become ready.
        """
        configuration = self._directory / "kubelet.json"
        configuration.write_text(json.dumps(self._configuration(), indent=1))
        kubeconfig = self._control_plane.kubeconfig_for(f"system:node:{NODE}", ["system:nodes"])
        command: list[str | Path] = [
            program("kubelet"),
            f"--config={configuration}",
            f"--kubeconfig={kubeconfig}",
            f"--root-dir={self.volumes}",
            f"--hostname-override={NODE}",
            f"--node-ip={NODE_ADDRESS}",
        ]
        self.process.start(command, environment())
        wait_until(lambda: self._control_plane.schedulable(NODE), f"{NODE} ready", [self.process])

    def stop(self) -> None:
        """Stop the kubelet and remove files that it keeps outside its folder whatever its configuration says."""
        self.process.stop()
        for link in LOG_LINKS.glob("*.log"):
            if link.is_symlink() and link.readlink().is_relative_to(self._directory):
                link.unlink()

    def _configuration(self) -> dict[str, object]:
        authority = self._control_plane.authority
        pair = authority.issue("kubelet", NODE, hosts=[NODE, NODE_ADDRESS])
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_ADDRESS,
            "healthzBindAddress": NODE_ADDRESS,
            "tlsCertFile": str(pair.certificate),
            "tlsPrivateKeyFile": str(pair.key),
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority.pair.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "clusterDNS": [DNS_SERVICE_ADDRESS],
            "clusterDomain": DOMAIN,
            "containerRuntimeEndpoint": f"unix://{self._runtime}",
            "podLogsDir": str(self._directory / "pod-logs"),
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            # kube-proxy creates the chains that it uses, and removes them.
            "makeIPTablesUtilChains": False,
            # To lower it takes CAP_SYS_RESOURCE, which root may lack in a sandbox.
            "oomScoreAdj": 0,
            # A developer's disk may be nearly full, and a deleted image could not be pulled again.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        }


class Proxy:
    """kube-proxy, which routes Service addresses to Pods.

    Args:
        directory: an existing folder for its log and record.
        control_plane: must be started first, and so must the kubelet: kube-proxy is healthy once its node exists.
    """

    def __init__(self, directory: Path, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane
        self.process = Process("kube-proxy", directory, tied=False)

    def start(self) -> None:
        """Start kube-proxy and wait until it has written the rules of the Services that exist.

        Raises:
            ClusterError: kube-proxy could not be built or started.
        """
        kubeconfig = self._control_plane.kubeconfig_for("system:kube-proxy")
        command: list[str | Path] = [
            program("kube-proxy"),
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={NODE}",
            f"--cluster-cidr={POD_RANGE}",
            f"--healthz-bind-address={NODE_ADDRESS}:{PROXY_HEALTH_PORT}",
            f"--metrics-bind-address={NODE_ADDRESS}:10249",
            "--proxy-mode=iptables",
            # Keep the host's own settings.
            "--iptables-localhost-nodeports=false",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
            "--oom-score-adj=0",
        ]
        self.process.start(command, environment())
        wait_until(_rules_in_force, "kube-proxy ready", [self.process])

    def stop(self) -> None:
        """Stop kube-proxy and remove its rules from the host.

        Raises:
            ClusterError: the rules could not be removed.
        """
        self.process.stop()
        if self.process.log.exists():
            run([program("kube-proxy"), "--cleanup"])
            remove_chain("KUBE-FIREWALL", "INPUT", "OUTPUT")  # kube-proxy leaves this chain to a kubelet


def _rules_in_force() -> bool:
    connection = http.client.HTTPConnection(NODE_ADDRESS, PROXY_HEALTH_PORT, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
