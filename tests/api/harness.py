"""The operator as a separate process, KWOK's Pods as stages that follow a script, and helpers to observe both."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from evolution_operator.api.spec import GROUP, KIND, PLURAL, VERSION
from evolution_operator.controller import labels
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from hack.cluster.control_plane import ControlPlane
from tests.support.run_document import minimal_spec, run_document

SKEWED = Path(__file__).with_name("skewed.py")
RBAC = Path(__file__).parents[2] / "operator/evolution_operator/controller/rbac.yaml"
OPERATOR_NAMESPACE = "evolution-system"
SERVICE_ACCOUNT = f"system:serviceaccount:{OPERATOR_NAMESPACE}:evolution-operator"
KWOK = "kwok.evolution.run"
PATIENCE = 120.0


def manifest(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    """A run with Pods that run until the script ends them."""
    base = {
        "iterations": 0,
        "storage": {"uri": "s3://bucket/runs", "endpoint": "http://minio:9000", "credentialsSecret": "s3"},
        "pod": {"image": "example.invalid/train:1", "annotations": {f"{KWOK}/outcome": "run"}},
        "retry": {"backoffSeconds": 1, "maxAttempts": 2},
    }
    return run_document(minimal_spec(**base | spec), name=name, namespace=namespace)


class OperatorProcess:
    """`kopf run -m evolution_operator.controller.main` with the permissions of rbac.yaml and no others.

    Its clock is ahead by `ahead` seconds.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        directory: Path,
        *,
        namespaces: tuple[str, ...] = (),
        name: str = "operator",
        kubeconfig: Path | None = None,
        ahead: float = 0,
        **settings: str,
    ) -> None:
        self.log = directory / f"{name}.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        kubeconfig = kubeconfig or control_plane.kubeconfig_for(SERVICE_ACCOUNT, ["system:serviceaccounts"])
        scope = {"KOPF_RUN_NAMESPACES": " ".join(namespaces)} if namespaces else {"KOPF_RUN_CLUSTERWIDE": "true"}
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "KUBECONFIG": str(kubeconfig),
            "KOPF_RUN_LOG_FORMAT": "json",
            "EVOLUTION_LEASE_NAMESPACE": OPERATOR_NAMESPACE,
            "EVOLUTION_LEASE_NAME": "-".join(namespaces)[:60] or "all",
            "EVOLUTION_LEASE_SECONDS": "3",
            "EVOLUTION_IDENTITY": name,
            "EVOLUTION_HTTP_PORT": str(self.port),
            "EVOLUTION_PASS_INTERVAL_SECONDS": "0.1",
            "EVOLUTION_HELD_RETRY_SECONDS": "2",
            **scope,
            **{f"EVOLUTION_{key.upper()}": value for key, value in settings.items()},
        }
        self._skew = [str(SKEWED), str(ahead)] if ahead else ["-m"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it. It appends to its log."""
        command = [sys.executable, *self._skew, "kopf", "run", "-m", "evolution_operator.controller.main"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment, cwd=self.log.parent
            )

    def send(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it and return its exit status. It gets SIGKILL if it takes too long."""
        if self._process is None or self._process.poll() is not None:
            return 0 if self._process is None else self._process.returncode
        self._process.send_signal(number)
        try:
            return self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def kill(self) -> None:
        """Kill it, as a lost node does."""
        self.stop(signal.SIGKILL)

    def get(self, path: str) -> str:
        """Its HTTP response to GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def lines(self) -> list[dict[str, Any]]:
        """Its log, one JSON document a line."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


class Kubelet:
    """Serves the logs of a node's Pods to the API server."""

    def __init__(self, control_plane: ControlPlane, node: str) -> None:
        self.logs: dict[tuple[str, str], str] = {}
        """By namespace and Pod."""
        kubelet = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _, kind, namespace, pod, _ = self.path.partition("?")[0].split("/")
                text = kubelet.logs.get((namespace, pod))
                self.send_response(200 if kind == "containerLogs" and text is not None else 404)
                self.end_headers()
                self.wfile.write((text or "").encode())

            def log_message(self, *_: Any) -> None:
                pass

        pair = control_plane.authority.issue(f"kubelet-{node}", f"system:node:{node}", hosts=[control_plane.address])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self._server = http.server.ThreadingHTTPServer((control_plane.address, 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        status = {
            "addresses": [{"type": "InternalIP", "address": control_plane.address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.server_address[1]}},
        }
        control_plane.kubectl(
            "patch", "node", node, "--subresource=status", f"--patch={json.dumps({'status': status})}"
        )

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()


class Proxy:
    """A TCP proxy to the API server that can be cut off, or fall silent as a load balancer that forgets connections."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._target = (control_plane.address, control_plane.ports.apiserver)
        self._listener = socket.create_server((control_plane.address, 0))
        self._pairs: list[socket.socket] = []
        self._silent: set[socket.socket] = set()
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def kubeconfig(self, original: Path, directory: Path) -> Path:
        """The kubeconfig with this proxy in place of the API server."""
        document = yaml.safe_load(original.read_text())
        host, port = self._listener.getsockname()
        for cluster in document["clusters"]:
            cluster["cluster"]["server"] = f"https://{host}:{port}"
        path = directory / "proxy.kubeconfig"
        path.write_text(yaml.safe_dump(document))
        return path

    def cut(self) -> None:
        """Close all connections and refuse new ones."""
        self._open = False
        for end in self._pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def silence(self) -> None:
        """Carry nothing more over the connections that are open, and keep them open. New ones work."""
        self._silent.update(self._pairs)

    def restore(self) -> None:
        """Accept new connections."""
        self._open = True

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            if not self._open:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            self._pairs += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source not in self._silent:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def install(control_plane: ControlPlane, namespaces: tuple[str, ...] = ()) -> None:
    """Create the operator's namespace and permissions: cluster-wide, or in these namespaces only."""
    rules = yaml.safe_load(RBAC.read_text())
    own = {"namespace": OPERATOR_NAMESPACE}
    items: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}},
        *_role("Role", "evolution-operator", rules["own"], own),
    ]
    if namespaces:
        for namespace in namespaces:
            items += _role("Role", "evolution-operator", rules["served"], {"namespace": namespace})
    else:
        items += _role("ClusterRole", "evolution-operator", rules["served"], {})
    everything = {"apiVersion": "v1", "kind": "List", "items": items}
    control_plane.kubectl("apply", "--server-side", "--validate=ignore", "--filename=-", manifest=everything)


def uninstall_cluster_wide(control_plane: ControlPlane) -> None:
    """Delete the cluster-wide permissions."""
    control_plane.kubectl("delete", "clusterrolebinding,clusterrole", "evolution-operator", "--ignore-not-found")


def _role(kind: str, name: str, rules: Any, where: Mapping[str, str]) -> list[dict[str, Any]]:
    rbac = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": f"{rbac}/v1", "kind": kind, "metadata": {"name": name, **where}, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": f"{kind}Binding",
            "metadata": {"name": name, **where},
            "roleRef": {"apiGroup": rbac, "kind": kind, "name": name},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": SERVICE_ACCOUNT}],
        },
    ]


def report(stage: str, **changes: Any) -> dict[str, Any]:
    """The report of a stage's process."""
    found: dict[str, Any] = {"reason": "Completed", "seconds": 12.0, "digest": "d" * 64}
    if stage == "prepare":
        outputs = ("model", "train", "validation", "contexts", "test", "replay")
        found["contents"] = {name: hashlib.sha256(name.encode()).hexdigest() for name in outputs}
    if stage.startswith("evaluate"):
        found["metrics"] = {"distinct2": 0.5 + int(stage.rpartition("-")[2]) / 10}
    return found | changes


@dataclass(frozen=True)
class Outcome:
    """How a Pod ends. If it `stays`, it keeps running."""

    code: int = 0
    report: Mapping[str, Any] | None = None
    stays: bool = False


STAYS = Outcome(stays=True)


@dataclass
class Script:
    """Ends Pods: a queue of outcomes for each (namespace, stage), and success once the queue is empty."""

    kube: client.ApiClient
    outcomes: dict[tuple[str, str], list[Outcome]] = field(default_factory=dict)
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    """Namespace, stage and attempt of each Pod that began to run, in that order."""
    _done: set[str] = field(default_factory=set)
    _stopped: bool = False

    def will(self, namespace: str, stage: str, *outcomes: Outcome) -> None:
        """Set the outcomes of the next Pods of a stage."""
        self.outcomes[namespace, stage] = list(outcomes)

    def run(self) -> None:
        """End Pods until `stop`."""
        core = client.CoreV1Api(self.kube)
        while not self._stopped:
            try:
                stream = watch.Watch().stream(
                    core.list_pod_for_all_namespaces, label_selector=labels.RUN, timeout_seconds=5
                )
                for event in stream:
                    if event["type"] != "DELETED":
                        self._end(core, event["object"])
                    if self._stopped:
                        return
            except Exception:  # the API server is down in some tests
                time.sleep(0.1)

    def stop(self) -> None:
        """Stop ending Pods."""
        self._stopped = True

    def _end(self, core: client.CoreV1Api, pod: client.V1Pod) -> None:
        if pod.status.phase != "Running" or pod.metadata.deletion_timestamp or pod.metadata.uid in self._done:
            return
        self._done.add(pod.metadata.uid)
        tags = pod.metadata.labels
        stage = tags[labels.STAGE]
        self.seen.append((pod.metadata.namespace, stage, tags.get(labels.ATTEMPT, "")))
        queue = self.outcomes.get((pod.metadata.namespace, stage), [])
        outcome = queue.pop(0) if queue else Outcome()
        if not outcome.stays:
            with contextlib.suppress(ApiException):
                end(core, pod.metadata.namespace, pod.metadata.name, stage, outcome)


def end(core: client.CoreV1Api, namespace: str, pod: str, stage: str, outcome: Outcome) -> None:
    """End a running Pod."""
    message = report(stage) if outcome.report is None and outcome.code == 0 else outcome.report or {}
    annotations = {
        f"{KWOK}/outcome": "fail" if outcome.code else "succeed",
        f"{KWOK}/exit-code": str(outcome.code),
        f"{KWOK}/message": json.dumps(message) if message else "",
    }
    core.patch_namespaced_pod(pod, namespace, {"metadata": {"annotations": annotations}})


@contextlib.contextmanager
def running_script(kube: client.ApiClient) -> Iterator[Script]:
    """A script that runs in the background."""
    script = Script(kube)
    thread = threading.Thread(target=script.run, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        script.stop()


class Runs:
    """EvolutionRuns of a namespace, with the administrator's permissions."""

    def __init__(self, kube: client.ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self.core = client.CoreV1Api(kube)
        self.batch = client.BatchV1Api(kube)
        self._custom = client.CustomObjectsApi(kube)

    def create(self, name: str, **spec: Any) -> dict[str, Any]:
        """Create a run."""
        return self.apply(manifest(name, self.namespace, **spec))

    def apply(self, document: dict[str, Any], **options: str) -> dict[str, Any]:
        """Create a run from its document."""
        created: dict[str, Any] = self._custom.create_namespaced_custom_object(
            GROUP, VERSION, self.namespace, PLURAL, document, **options
        )
        return created

    def get(self, name: str) -> dict[str, Any]:
        """A run."""
        found: dict[str, Any] = self._custom.get_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, name)
        return found

    def patch(self, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        """Merge a patch into a run."""
        patched: dict[str, Any] = self._custom.patch_namespaced_custom_object(
            GROUP, VERSION, self.namespace, PLURAL, name, patch, _content_type="application/merge-patch+json"
        )
        return patched

    def delete(self, name: str) -> None:
        """Delete a run."""
        self._custom.delete_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, name)

    def wait(
        self, name: str, holds: Callable[[dict[str, Any]], Any], what: str, timeout: float = PATIENCE
    ) -> dict[str, Any]:
        """The run once `holds` is true for it."""
        return wait_for(lambda: self.get(name), holds, what, timeout)

    def wait_phase(self, name: str, phase: str, timeout: float = PATIENCE) -> dict[str, Any]:
        """The run once it is in a phase and the status is about its newest spec."""
        return self.wait(
            name,
            lambda run: (
                run.get("status", {}).get("phase") == phase
                and run["status"].get("observedGeneration") == run["metadata"]["generation"]
            ),
            f"{name} {phase}",
            timeout,
        )

    def wait_gone(self, name: str, timeout: float = PATIENCE) -> None:
        """Wait until the run is gone."""

        def gone() -> bool:
            try:
                self.get(name)
            except ApiException as error:
                return error.status == 404
            return False

        wait_for(gone, bool, f"{name} gone", timeout)

    def jobs(self) -> list[client.V1Job]:
        """All Jobs."""
        items: list[client.V1Job] = self.batch.list_namespaced_job(self.namespace).items
        return items

    def job(self, stage: str, attempt: int = 1) -> client.V1Job:
        """A stage's Job, once it exists."""
        selector = f"{labels.STAGE}={stage},{labels.ATTEMPT}={attempt}"
        return wait_for(
            lambda: self.batch.list_namespaced_job(self.namespace, label_selector=selector).items,
            bool,
            f"Job of {stage}, attempt {attempt}",
        )[0]

    def pod(self, stage: str, phase: str = "Running", attempt: int = 1) -> client.V1Pod:
        """A stage's Pod, once it is in a phase."""
        selector = f"{labels.STAGE}={stage},{labels.ATTEMPT}={attempt}"
        found = wait_for(
            lambda: [
                pod
                for pod in self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
                if pod.status.phase == phase and not pod.metadata.deletion_timestamp
            ],
            bool,
            f"{phase} Pod of {stage}, attempt {attempt}",
        )
        return found[0]

    def events(self, name: str, last: str) -> list[client.CoreV1Event]:
        """Events about a run in the order in which they were created, once there is one of the reason `last`."""
        selector = f"involvedObject.kind={KIND},involvedObject.name={name}"
        found = wait_for(
            lambda: self.core.list_namespaced_event(self.namespace, field_selector=selector).items,
            lambda events: any(event.reason == last for event in events),
            f"an event {last} about {name}",
        )
        return sorted(found, key=lambda event: int(event.metadata.resource_version))


def wait_for(probe: Callable[[], Any], holds: Callable[[Any], Any], what: str, timeout: float = PATIENCE) -> Any:
    """The result of the probe once `holds` is true for it. The test fails if that takes too long."""
    deadline = time.monotonic() + timeout
    while True:
        value = None
        with contextlib.suppress(ConnectionError, OSError):
            value = probe()
            if holds(value):
                return value
        if time.monotonic() > deadline:
            shown = json.dumps(value.get("status"), indent=1) if isinstance(value, dict) else value
            pytest.fail(f"not within {timeout:.0f} s: {what}; last seen: {shown}")
        time.sleep(0.05)


def stage(run: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A stage of the run's status, with the counts that are left out when zero. Empty if the stage is not there yet."""
    found: dict[str, Any] = next((s for s in run.get("status", {}).get("stages", []) if s["id"] == name), {})
    return found and {"attempts": 0, "failures": 0, "cached": False, **found}


def condition(run: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A condition of the run."""
    found: dict[str, Any] = next((c for c in run["status"]["conditions"] if c["type"] == kind), {})
    return found


@dataclass(frozen=True)
class Call:
    """One call in the audit log."""

    verb: str
    resource: str
    name: str
    code: int
    user: str


def audit(control_plane: ControlPlane, namespace: str, user: str = SERVICE_ACCOUNT) -> list[Call]:
    """The calls of a user that touched a namespace, in order."""
    calls = []
    for line in control_plane.audit_log.read_text().splitlines():
        event = json.loads(line)
        where = event.get("objectRef") or {}
        if where.get("namespace") != namespace or event["user"]["username"] != user:
            continue
        if event["stage"] != "ResponseComplete":
            continue
        resource = "/".join(part for part in (where["resource"], where.get("subresource")) if part)
        calls.append(
            Call(
                event["verb"],
                resource,
                where.get("name", ""),
                event["responseStatus"]["code"],
                event["user"]["username"],
            )
        )
    return calls
