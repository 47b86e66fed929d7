"""`evolution dashboard`: the operator's live page, through `kubectl port-forward`.

kubectl forwards, because it has every way to log in to a cluster. What it forwards reaches the Pod over the Pod's own
loopback interface, from which alone the operator answers by default. So whoever sees the page may forward ports there.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Annotated, Any

import typer
from evolution_jobs.contract.errors import PermanentError

from .browser import open_browser

SELECTOR = "app.kubernetes.io/component=operator"
MARK = "EVOLUTION_LEASE_NAMESPACE"
"""An environment variable that the operator's container has, whatever its chart and release are called."""
FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) -> \d+")
NOT_CONFIGURED = "localhost:8080"
"""Where kubectl looks for a cluster if no kubeconfig names one."""
LIST_SECONDS, END_SECONDS = 60.0, 5.0
PATIENCE_SECONDS, RETRY_SECONDS = 120.0, 1.0
"""How long the successor of a Pod that has ended is looked for, and how often."""


@dataclass(frozen=True)
class OperatorPod:
    """A running Pod of an operator."""

    namespace: str
    name: str
    release: str
    port: int
    ready: bool


def dashboard(
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace of the operator; by default it is looked for.")
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on this machine; by default a free one.")
    ] = 0,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Watch all runs on a cluster: the operator's live page, until Ctrl-C."""

    def opened(address: str) -> None:
        shown = open_ and open_browser(address)
        _say(f"live page: {address}" + (" (opened in the browser)" if shown else ""))
        _say("Ctrl-C ends it; the runs go on.")

    with suppress(KeyboardInterrupt):
        forward(namespace, port, opened)


def forward(
    namespace: str | None, port: int, opened: Callable[[str], None], patience: float = PATIENCE_SECONDS
) -> None:
    """Forward a port of the operator's Pod until Ctrl-C. `opened` gets the page's address.

    If the Pod ends, as at an upgrade, its successor gets the same port, so that an open page goes on. It is looked for during
    `patience` seconds.

    Raises PermanentError: `DependencyMissing`, `ClusterRefused`, `ClusterUnreachable`, `OperatorMissing`, `ForwardFailed`,
    `PageOff`.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise PermanentError(
            "DependencyMissing",
            "kubectl is not on PATH; it forwards the operator's port: install it (https://kubernetes.io/docs/tasks/tools)",
        )
    # As for Ctrl-C: kubectl must not go on alone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lost: float | None = None
    while True:
        try:
            pod = the_operator(_pods(kubectl, namespace), namespace)
            with _forwarded(kubectl, pod, port) as (lines, port):
                _check_page(port)
                if lost is None:
                    opened(f"http://127.0.0.1:{port}/")
                else:
                    _say(f"connected again, to Pod {pod.namespace}/{pod.name}")
                words = _last(lines)
            lost = time.monotonic()
            _say(f"Pod {pod.namespace}/{pod.name} is no longer forwarded ({words}); looking for the operator")
        except PermanentError:
            if lost is None or time.monotonic() - lost >= patience:
                raise
        time.sleep(RETRY_SECONDS)


def the_operator(pods: Iterable[Mapping[str, Any]], namespace: str | None) -> OperatorPod:
    """The Pod of the only operator among these; a ready one if it has several. Raises PermanentError `OperatorMissing`."""
    found = [pod for each in pods if (pod := _operator_pod(each)) is not None]
    where = f"in namespace {namespace}" if namespace else "on this cluster"
    if not found:
        raise PermanentError(
            "OperatorMissing",
            f"no Pod of the operator runs {where}: install it (docs/install.md), or name its namespace with --namespace",
        )
    releases = sorted({(pod.namespace, pod.release) for pod in found})
    if len(releases) > 1:
        names = ", ".join(f"{release} in {each}" for each, release in releases)
        raise PermanentError("OperatorMissing", f"several operators run {where}: {names}; choose one with --namespace")
    return min(found, key=lambda pod: (not pod.ready, pod.name))


def _operator_pod(pod: Mapping[str, Any]) -> OperatorPod | None:
    """A Pod as one of an operator; None if it is something else, or does not run."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    if "deletionTimestamp" in metadata or status.get("phase") != "Running":
        return None
    for container in pod["spec"]["containers"]:
        ports = {port.get("name"): port["containerPort"] for port in container.get("ports") or []}
        if "http" in ports and any(variable["name"] == MARK for variable in container.get("env") or []):
            ready = any((each["type"], each["status"]) == ("Ready", "True") for each in status.get("conditions") or [])
            release = (metadata.get("labels") or {}).get("app.kubernetes.io/instance", "")
            return OperatorPod(metadata["namespace"], metadata["name"], release, ports["http"], ready)
    return None


def _pods(kubectl: str, namespace: str | None) -> list[dict[str, Any]]:
    """Pods that may be an operator's, in this namespace or in all."""
    place = f"--namespace={namespace}" if namespace else "--all-namespaces"
    command = [kubectl, "get", "pods", place, f"--selector={SELECTOR}", "--output=json"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PermanentError(
            "ClusterUnreachable", f"the cluster did not answer kubectl for {error.timeout:.0f} s"
        ) from error
    if done.returncode != 0:
        words = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        if NOT_CONFIGURED in words:
            raise PermanentError("NoCluster", "no cluster is configured: set KUBECONFIG to the file that names it")
        hint = (
            "" if namespace else "; if you may not list Pods everywhere, name the operator's namespace with --namespace"
        )
        raise PermanentError("ClusterRefused", f"kubectl cannot list the operator's Pods: {words[:300]}{hint}")
    items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return items


@contextmanager
def _forwarded(kubectl: str, pod: OperatorPod, port: int) -> Iterator[tuple[Iterator[str], int]]:
    """What kubectl prints while it forwards, and the local port. Its process ends with the block."""
    place = [f"--namespace={pod.namespace}", f"pod/{pod.name}", f"{port or ''}:{pod.port}"]
    with subprocess.Popen(
        [kubectl, "port-forward", "--address=127.0.0.1", *place],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            begun = FORWARDING.match(first)
            if begun is None:
                words = _last(process.stdout, first)
                raise PermanentError("ForwardFailed", f"Pod {pod.namespace}/{pod.name} cannot be forwarded: {words}")
            yield process.stdout, int(begun[1])
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _last(lines: Iterable[str], line: str = "") -> str:
    """The last line that kubectl prints until it ends, but for its note on each request."""
    for each in lines:
        line = each if each.strip() and not each.startswith("Handling connection") else line
    return line.strip()[:300] or "kubectl does not say why"


def _check_page(port: int) -> None:
    """See that the page is there. Raises PermanentError `PageOff`, or `ForwardFailed` if nothing answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("HEAD", "/runs.json")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        raise PermanentError("ForwardFailed", f"the operator does not answer on the forwarded port: {error}") from error
    finally:
        connection.close()
    if status != 200:
        raise PermanentError(
            "PageOff", "this operator serves no live page: set live.access to portForward in the chart, or upgrade it"
        )


def _say(line: str) -> None:
    print(line, flush=True)
