"""The operator is killed, run twice, cut off and interfered with: no Job is lost or created twice."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from evolution_operator.controller import labels
from kubernetes import client

from hack.cluster.control_plane import ControlPlane
from tests.api.harness import (
    OPERATOR_NAMESPACE,
    SERVICE_ACCOUNT,
    STAYS,
    OperatorProcess,
    Outcome,
    Proxy,
    Runs,
    Script,
    audit,
    end,
    stage,
    wait_for,
)

OUTAGE_SECONDS = 60.0


@pytest.fixture
def operators(installed: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[list[OperatorProcess]]:
    """Two replicas for one namespace, not yet started."""
    replicas = [
        OperatorProcess(installed, tmp_path, namespaces=(namespace,), name=f"replica-{number}") for number in (0, 1)
    ]
    yield replicas
    for replica in replicas:
        replica.stop()


def _creates(control_plane: ControlPlane, namespace: str) -> Counter[tuple[str, int]]:
    """Job creations by name and answer."""
    return Counter(
        (call.name, call.code)
        for call in audit(control_plane, namespace)
        if (call.verb, call.resource) == ("create", "jobs")
    )


def _events_once(runs: Runs, name: str) -> None:
    assert _repeated(runs.events(name, "Complete")) == []


def _repeated(events: list[client.CoreV1Event]) -> list[tuple[str, str]]:
    counts = Counter((event.reason, event.message) for event in events)
    return [event for event, count in counts.items() if count > 1]


def test_killed_at_any_moment_it_loses_and_repeats_nothing(
    control_plane: ControlPlane,
    kube: client.ApiClient,
    namespace: str,
    operators: list[OperatorProcess],
    script: Script,
) -> None:
    runs, operator = Runs(kube, namespace), operators[0]
    runs.create("hunted", iterations=1, generation={"shards": 2})
    operator.start()
    dice = random.Random(7)

    def leads() -> None:
        wait_for(lambda: operator.get("/metrics"), lambda text: "evolution_leader 1.0" in text, "it leads")

    for _ in range(6):
        leads()
        threading.Event().wait(dice.uniform(0, 2.5))
        operator.kill()
        operator.start()
    run = runs.wait_phase("hunted", "Complete")
    assert run["status"]["progress"] == "7/7"
    assert {(s["attempts"], s.get("failures", 0)) for s in run["status"]["stages"]} == {(1, 0)}
    jobs = runs.jobs()
    assert Counter(job.metadata.labels[labels.STAGE] for job in jobs) == Counter(
        s["id"] for s in run["status"]["stages"]
    )
    # The audit log has no names of created Jobs: count the response codes.
    answers = Counter()
    for (_, code), times in _creates(control_plane, namespace).items():
        answers[code] += times
    assert answers[201] == 7
    pods = Counter((name, attempt) for place, name, attempt in script.seen if place == namespace)
    assert pods == Counter(
        {
            ("generate-1", "1"): 2,
            **{(n, "1"): 1 for n in ("prepare", "sft", "evaluate-0", "reflect-1", "dpo-1", "evaluate-1")},
        }
    )
    # A kill loses the events that wait to be sent, perhaps the last one. The operator sends the others before it stops.
    leads()
    assert operator.stop() == 0
    events = runs.core.list_namespaced_event(namespace, field_selector="involvedObject.name=hunted").items
    assert events
    assert _repeated(events) == []


def test_one_replica_leads_and_a_killed_leader_is_followed(
    control_plane: ControlPlane,
    kube: client.ApiClient,
    namespace: str,
    operators: list[OperatorProcess],
    script: Script,
) -> None:
    runs = Runs(kube, namespace)
    leases = client.CoordinationV1Api(kube)
    script.will(namespace, "prepare", STAYS)
    for operator in operators:
        operator.start()

    def holder() -> str:
        return str(leases.read_namespaced_lease(namespace, OPERATOR_NAMESPACE).spec.holder_identity or "")

    runs.create("led")
    pod = runs.pod("prepare")
    leader = next(operator for operator in operators if holder().startswith(operator.log.stem))
    (standby,) = [operator for operator in operators if operator is not leader]
    assert "evolution_leader 1.0" in leader.get("/metrics")
    wait_for(lambda: standby.get("/metrics"), lambda text: "evolution_leader 0.0" in text, "the other stands by")

    leader.kill()
    end(runs.core, namespace, pod.metadata.name, "prepare", Outcome())
    # The lease is of 3 s here and of 10 s by default: half again as long is enough, and 15 s in production.
    runs.wait(
        "led", lambda run: stage(run, "prepare").get("state") == "Succeeded", "the standby takes over", timeout=15
    )
    assert holder().startswith(standby.log.stem)
    runs.wait_phase("led", "Complete")
    assert sum(times for (_, code), times in _creates(control_plane, namespace).items() if code == 201) == 3
    _events_once(runs, "led")

    leader.start()
    assert standby.stop() == 0
    # It stepped down, so the other does not wait for the lease to expire.
    wait_for(holder, lambda name: name.startswith(leader.log.stem), "the other leads at once", timeout=10)


def test_a_leader_that_was_frozen_does_not_write_when_it_continues(
    control_plane: ControlPlane,
    kube: client.ApiClient,
    namespace: str,
    operators: list[OperatorProcess],
    script: Script,
) -> None:
    runs, (first, second) = Runs(kube, namespace), operators
    script.will(namespace, "prepare", STAYS)
    first.start()
    runs.create("frozen")
    pod = runs.pod("prepare")
    first.send(signal.SIGSTOP)
    second.start()
    end(runs.core, namespace, pod.metadata.name, "prepare", Outcome())
    runs.wait_phase("frozen", "Complete")
    first.send(signal.SIGCONT)
    wait_for(lambda: first.get("/metrics"), lambda text: "evolution_leader 0.0" in text, "it stands by")
    runs.create("after")
    runs.wait_phase("after", "Complete")
    assert sum(times for (_, code), times in _creates(control_plane, namespace).items() if code == 201) == 6
    _events_once(runs, "frozen")


def test_it_waits_for_an_api_server_that_is_down_for_a_minute(
    control_plane: ControlPlane,
    kube: client.ApiClient,
    namespace: str,
    operators: list[OperatorProcess],
    script: Script,
) -> None:
    runs, operator = Runs(kube, namespace), operators[0]
    script.will(namespace, "prepare", STAYS)
    operator.start()
    runs.create("patient")
    pod = runs.pod("prepare")
    control_plane.stop_apiserver()
    back = time.monotonic() + OUTAGE_SECONDS
    # Its lease expires meanwhile, so it must campaign again as well.
    wait_for(lambda: operator.get("/metrics"), lambda text: "evolution_leader 0.0" in text, "it stands by")
    time.sleep(back - time.monotonic())  # the fault itself
    assert operator.get("/healthz") == "ok\n", "a restart would not bring the API server back"
    control_plane.start_apiserver()
    end(runs.core, namespace, pod.metadata.name, "prepare", Outcome())
    runs.wait_phase("patient", "Complete")
    assert sum(times for (_, code), times in _creates(control_plane, namespace).items() if code == 201) == 3
    _events_once(runs, "patient")


def behind_a_proxy(
    installed: ControlPlane, directory: Path, namespace: str, **settings: str
) -> tuple[Proxy, OperatorProcess]:
    """An operator, not yet started, whose connections to the API server go through a proxy."""
    proxy = Proxy(installed)
    kubeconfig = proxy.kubeconfig(installed.kubeconfig_for(SERVICE_ACCOUNT, ["system:serviceaccounts"]), directory)
    return proxy, OperatorProcess(installed, directory, namespaces=(namespace,), kubeconfig=kubeconfig, **settings)


def test_changes_during_a_silent_watch_are_noticed(
    control_plane: ControlPlane,
    installed: ControlPlane,
    kube: client.ApiClient,
    namespace: str,
    tmp_path: Path,
    script: Script,
) -> None:
    """Connections stay open and carry nothing. A run is created, one is changed, and one is deleted."""
    proxy, operator = behind_a_proxy(installed, tmp_path, namespace, watch_silence_seconds="4")
    runs = Runs(kube, namespace)
    script.will(namespace, "prepare", STAYS, STAYS)
    operator.start()
    try:
        for name in ("changed", "deleted"):
            runs.create(name)
            runs.wait(name, lambda run: stage(run, "prepare").get("state") == "Running", f"prepare of {name} runs")
        # A Pod that is deleted before the script has seen it leaves its outcome to the next one.
        wait_for(
            lambda: [pod for pod in script.seen if pod[0] == namespace], lambda pods: len(pods) == 2, "both are seen"
        )
        proxy.silence()
        runs.patch("changed", {"spec": {"suspend": True}})
        runs.delete("deleted")
        runs.create("created")
        runs.wait_phase("changed", "Suspended")
        runs.wait_phase("created", "Complete")
        wait_for(lambda: operator.get("/metrics"), lambda text: "evolution_runs{" in text, "it serves metrics")
        metrics = operator.get("/metrics")
    finally:
        operator.stop()
    assert 'evolution_runs{phase="Complete"} 1.0' in metrics
    assert 'evolution_runs{phase="Running"} 0.0' in metrics
    assert 'evolution_watch_silent_seconds{kind="evolutionruns"}' in metrics
    created = [times for (_, code), times in _creates(control_plane, namespace).items() if code == 201]
    assert sum(created) == 2 + 3, "no work is doubled"


def test_changes_during_a_broken_watch_are_noticed(
    installed: ControlPlane,
    kube: client.ApiClient,
    namespace: str,
    tmp_path: Path,
    script: Script,
) -> None:
    """A Job and its Pod are deleted while the connection is cut, and the API server restarts before it is restored."""
    proxy, operator = behind_a_proxy(installed, tmp_path, namespace)
    runs = Runs(kube, namespace)
    script.will(namespace, "sft", STAYS)
    operator.start()
    try:
        runs.create("blind")
        runs.pod("sft")
        runs.wait("blind", lambda run: stage(run, "sft").get("state") == "Running", "sft runs")
        job = runs.job("sft")
        proxy.cut()
        runs.batch.delete_namespaced_job(job.metadata.name, namespace, propagation_policy="Background")
        wait_for(
            lambda: runs.core.list_namespaced_pod(namespace, label_selector=f"{labels.STAGE}=sft").items,
            lambda pods: not pods,
            "its Pod is gone",
        )
        installed.restart_apiserver()
        proxy.restore()
        runs.wait_phase("blind", "Complete")
    finally:
        operator.stop()
    assert runs.job("sft").metadata.uid != job.metadata.uid
    assert [line for line in operator.lines() if line["message"].startswith("a watch was broken")]


def test_other_writers_of_the_resource_do_not_stop_it(
    kube: client.ApiClient, namespace: str, operators: list[OperatorProcess], script: Script
) -> None:
    runs, operator = Runs(kube, namespace), operators[0]
    operator.start()
    runs.create("noisy")
    stop = threading.Event()

    def disturb() -> None:
        number = 0
        while not stop.wait(0.05):
            number += 1
            runs.patch("noisy", {"metadata": {"annotations": {"another/writer": str(number)}}})

    noise = threading.Thread(target=disturb, daemon=True)
    noise.start()
    try:
        run = runs.wait_phase("noisy", "Complete", timeout=90)
    finally:
        stop.set()
        noise.join()
    assert int(run["metadata"]["annotations"]["another/writer"]) > 0
    _events_once(runs, "noisy")


def test_it_stops_at_once_and_leaves_the_run_as_it_is(
    kube: client.ApiClient, namespace: str, operators: list[OperatorProcess], script: Script
) -> None:
    runs, operator = Runs(kube, namespace), operators[0]
    script.will(namespace, "prepare", STAYS)
    operator.start()
    runs.create("left")
    pod = runs.pod("prepare")
    assert operator.stop() == 0
    assert runs.get("left")["status"]["phase"] == "Running"
    assert runs.core.read_namespaced_pod(pod.metadata.name, namespace).status.phase == "Running"
    assert not os.path.exists(f"/proc/{operator.pid}")
