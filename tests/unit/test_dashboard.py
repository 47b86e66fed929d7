"""`evolution dashboard` with a kubectl of the test's own, which forwards to the operator's server in this process.

The forwarding itself needs a kubelet: tests/cluster has one.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_operator.cli import dashboard
from evolution_operator.cli.browser import open_browser
from evolution_operator.cli.dashboard import forward, the_operator
from evolution_operator.cli.main import app
from evolution_operator.controller.process.cluster_runs import ClusterRuns
from evolution_operator.controller.process.health import HealthServer
from evolution_operator.controller.seen.cache import Cache
from evolution_operator.controller.seen.told import EventReader
from evolution_operator.live.pages import Pages
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

KUBECTL = """#!{python}
import json, os, pathlib, signal, sys
here = pathlib.Path({here!r})
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
script = json.loads((here / "script").read_text())
if sys.argv[1] == "get":
    sys.stderr.write(script.get("refused", ""))
    print(json.dumps({{"items": script["pods"]}}))
    sys.exit(1 if "refused" in script else 0)
(here / "pid").write_text(str(os.getpid()))
print(script["first"], flush=True)
print("Handling connection for 1", flush=True)
if "last" in script:
    print(script["last"], file=sys.stderr, flush=True)
    sys.exit(1)
signal.pause()
"""


def pod(name: str = "evo-1", namespace: str = "evolution", ready: bool = True, **changes: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/instance": "evo", "app.kubernetes.io/component": "operator"}
    container = {
        "name": "operator",
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [{"name": "EVOLUTION_LEASE_NAMESPACE", "value": namespace}],
    }
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"name": "proxy"}, container]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]},
        **changes,
    }


class NoEvents:
    """An API server without events."""

    def list_events(self, _key: Any, _uid: str) -> tuple[()]:
        return ()


class Kubectl:
    """The test's kubectl."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self.port = port
        program = directory / "kubectl"
        program.write_text(KUBECTL.format(python=sys.executable, here=str(directory)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.plays()

    def plays(self, **script: Any) -> None:
        default = {"pods": [pod()], "first": f"Forwarding from 127.0.0.1:{self.port} -> 8080"}
        (self._directory / "script").write_text(json.dumps(default | script))

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self._directory / "calls").read_text().splitlines()]

    def is_gone(self) -> bool:
        try:
            os.kill(int((self._directory / "pid").read_text()), 0)
        except ProcessLookupError:
            return True
        return False


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubectl]:
    pages = Pages(ClusterRuns(Cache(), EventReader(NoEvents())))
    server = HealthServer(0, lambda: None, CollectorRegistry(), pages.answer)
    server.start()
    monkeypatch.setenv("PATH", str(tmp_path))
    yield Kubectl(tmp_path, server.port)
    server.stop()


def test_it_forwards_until_ctrl_c_and_leaves_no_process(kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_address: str) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(dashboard, "open_browser", stop)
    done = CliRunner().invoke(app, ["dashboard", "-n", "evolution", "--port", "4711"], catch_exceptions=False)
    assert done.exit_code == 0
    assert kubectl.calls() == [
        ["get", "pods", "--namespace=evolution", "--selector=app.kubernetes.io/component=operator", "--output=json"],
        ["port-forward", "--address=127.0.0.1", "--namespace=evolution", "pod/evo-1", "4711:8080"],
    ]
    assert kubectl.is_gone()


def test_a_pod_that_ends_is_followed_by_its_successor_on_the_same_port(
    kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first Pod is gone at once. For a moment there is none, then another one, which ends, too, and none follows."""
    kubectl.plays(last="error: lost connection to pod")
    moments = iter([[], [pod("evo-2")], []])

    def pause(_seconds: float) -> None:
        if (pods := next(moments, None)) is not None:
            kubectl.plays(pods=pods, last="error: lost connection to pod")

    monkeypatch.setattr(dashboard, "time", SimpleNamespace(sleep=pause, monotonic=iter(range(100)).__next__))
    opened: list[str] = []
    with pytest.raises(PermanentError, match="no Pod of the operator runs"):
        forward(None, 0, opened.append, patience=3)
    assert opened == [f"http://127.0.0.1:{kubectl.port}/"]
    forwards = [call[-2:] for call in kubectl.calls() if call[0] == "port-forward"]
    assert forwards == [["pod/evo-1", ":8080"], ["pod/evo-2", f"{kubectl.port}:8080"]]
    lost = "is no longer forwarded (error: lost connection to pod); looking for the operator"
    assert capsys.readouterr().out.splitlines() == [
        f"Pod evolution/evo-1 {lost}",
        "connected again, to Pod evolution/evo-2",
        f"Pod evolution/evo-2 {lost}",
    ]
    assert "--all-namespaces" in kubectl.calls()[0]


@pytest.mark.parametrize(
    ("script", "reason", "words"),
    [
        ({"pods": []}, "OperatorMissing", "no Pod of the operator runs on this cluster"),
        ({"refused": "Error from server (Forbidden): no"}, "ClusterRefused", "Forbidden.*--namespace"),
        ({"refused": "The connection to the server localhost:8080 was refused"}, "NoCluster", "set KUBECONFIG"),
        ({"first": "error: unable to listen on port 80", "last": ""}, "ForwardFailed", "unable to listen on port 80"),
    ],
)
def test_what_goes_wrong_is_one_message(kubectl: Kubectl, script: dict[str, Any], reason: str, words: str) -> None:
    kubectl.plays(**script)
    with pytest.raises(PermanentError, match=words) as caught:
        forward(None, 0, print)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_an_operator_without_the_page_is_named(kubectl: Kubectl) -> None:
    server = HealthServer(0, lambda: None, CollectorRegistry())
    server.start()
    kubectl.plays(first=f"Forwarding from 127.0.0.1:{server.port} -> 8080")
    with pytest.raises(PermanentError, match=r"live\.access") as caught:
        forward(None, 0, print)
    server.stop()
    assert caught.value.reason == "PageOff"
    assert kubectl.is_gone()


def test_without_kubectl_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PermanentError, match="kubectl is not on PATH"):
        forward(None, 0, print)


def test_a_ready_pod_of_the_only_release_is_taken() -> None:
    other = pod("other", spec={"containers": [{"name": "http", "ports": [{"name": "http", "containerPort": 80}]}]})
    ended = pod("evo-0", status={"phase": "Succeeded"})
    assert the_operator([other, ended, pod("evo-1", ready=False), pod("evo-2")], None).name == "evo-2"
    assert the_operator([pod("evo-1", ready=False)], None).name == "evo-1"
    with pytest.raises(PermanentError, match="evo in a, evo in b; choose one with --namespace"):
        the_operator([pod(namespace="a"), pod(namespace="b")], None)


def test_the_browser_is_asked_only_where_there_is_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("subprocess.Popen", lambda command, **_: started.append(command))
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not open_browser("http://127.0.0.1:1/")
    assert started == []
    monkeypatch.setenv("DISPLAY", ":0")
    assert open_browser("http://127.0.0.1:1/")
    assert started == [[sys.executable, "-P", "-m", "webbrowser", "http://127.0.0.1:1/"]]
