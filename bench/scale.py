"""Measure many runs at once: time from a stage's end to the next one's start, stages per second, API calls per stage.

    python -m bench.scale --runs 10 100 400 --workers 4 16

Each case has its own control plane (etcd, kube-apiserver, kube-controller-manager, kube-scheduler), KWOK with Pods that end
after two seconds, and one operator process. All runs have seven stages and are created at once in one namespace. The
baseline is a plain loop that creates the same Jobs, each once the Jobs that it needs are complete. All times and counts
come from the API server's audit log. A case ends by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from evolution_jobs.contract.stage import Node, RunRef, StageSpec
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.controller.jobs.stage_job import build_job
from evolution_operator.controller.settings import Settings
from evolution_operator.planner.actions import Start
from evolution_operator.planner.graph import build_graph
from kubernetes import client, config, watch

from hack.cluster.control_plane import ControlPlane
from hack.cluster.kwok import CAPACITY, Kwok
from hack.cluster.processes import wait_until
from tests.api.conftest import CRDS, established
from tests.api.harness import KWOK, SERVICE_ACCOUNT, OperatorProcess, Runs, install, manifest, report

NAMESPACE = "bench"
PREFIX = "bench-"
POD_SECONDS = 2
JOB_CONTROLLER = "system:serviceaccount:kube-system:job-controller"
HEADER = "| runs | who | seconds | stages a second | turn p50 | turn p99 | calls a stage | event lists | CPU a stage |"


def run_spec() -> dict[str, Any]:
    """One round: seven stages. Their Pods write the same termination messages as real ones."""

    def pod(stage: str) -> dict[str, Any]:
        said = {"outcome": "succeed", "after": f"{POD_SECONDS}s", "message": json.dumps(report(stage))}
        return {"annotations": {f"{KWOK}/{name}": value for name, value in said.items()}}

    spec: dict[str, Any] = manifest("x", NAMESPACE, iterations=1)["spec"]
    spec["pod"] = {"image": "example.invalid/train:1", **pod("sft")}
    return {**spec, "prepare": {"pod": pod("prepare")}, "evaluation": {"pod": pod("evaluate-0")}}


GRAPH = build_graph(EvolutionRunSpec.model_validate(run_spec()), {})


@dataclass(frozen=True)
class Figures:
    """Measurements of one case."""

    jobs: int
    seconds: float
    """Seconds from the creation of the first Job to the end of the last."""
    turns: list[float]
    """For each Job, seconds from the end of the last Job that it needs to its creation."""
    calls: Counter[str]
    """The operator's calls by verb and resource, without watches and its Lease."""
    cpu: float = 0.0
    """CPU seconds of the operator."""

    def row(self, runs: int, who: str) -> str:
        """A row of the table."""
        centiles = statistics.quantiles(self.turns, n=100) if len(self.turns) > 1 else self.turns * 99
        whole = "" if self.jobs == runs * len(GRAPH) else f" ({self.jobs} of {runs * len(GRAPH)} stages)"
        mean = f"{sum(self.calls.values()) / self.jobs:.1f} | {self.calls['list events']}"
        calls = f"{mean} | {1000 * self.cpu / self.jobs:.0f} ms" if self.calls else "| |"
        return (
            f"| {runs} | {who} | {self.seconds:.1f}{whole} | {self.jobs / self.seconds:.1f} "
            f"| {centiles[49]:.2f} s | {centiles[98]:.2f} s | {calls} |"
        )


@contextlib.contextmanager
def cluster(runs: int) -> Iterator[tuple[ControlPlane, client.ApiClient]]:
    """A new control plane with capacity for all Pods."""
    with ControlPlane() as control_plane:
        control_plane.kubectl("apply", "--server-side", f"--filename={CRDS}")
        wait_until(lambda: established(control_plane), "CRD served")
        with Kwok(control_plane, nodes=1 + 2 * runs // int(CAPACITY["pods"])):
            install(control_plane)
            configuration = client.Configuration()
            config.load_kube_config(str(control_plane.kubeconfig), client_configuration=configuration)
            with client.ApiClient(configuration) as kube:
                core = client.CoreV1Api(kube)
                core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
                wait_until(lambda: bool(core.list_namespaced_service_account(NAMESPACE).items), "service account")
                yield control_plane, kube


def by_operator(runs: int, workers: int | None, limit: float) -> Figures:
    """Measure the operator. Its settings are the defaults, except for ``workers`` if given."""
    with cluster(runs) as (control_plane, kube):
        own = Settings()
        operator = OperatorProcess(
            control_plane,
            control_plane.directory,
            workers=str(workers or own.workers),
            pass_interval_seconds=str(own.pass_interval_seconds),
            held_retry_seconds=str(own.held_retry_seconds),
            lease_seconds=str(own.lease_seconds),
        )
        operator.start()
        try:
            wait_until(lambda: "evolution_leader 1.0" in answer(operator), "operator leads")
            bench = Runs(kube, NAMESPACE)
            for number in range(runs):
                bench.apply(manifest(f"{PREFIX}{number}", NAMESPACE, **run_spec()))
            deadline = time.monotonic() + limit
            done = f'evolution_runs{{phase="Complete"}} {runs}.0'
            while done not in answer(operator) and time.monotonic() < deadline:
                time.sleep(0.5)
            cpu = processor_seconds(operator.pid)
        finally:
            operator.stop()
        return replace(figures(control_plane), cpu=cpu)


def processor_seconds(pid: int) -> float:
    """CPU seconds that a process has used (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answer(operator: OperatorProcess) -> str:
    """The operator's metrics. Empty if it does not answer."""
    with contextlib.suppress(OSError):
        return operator.get("/metrics")
    return ""


def by_hand(runs: int, limit: float) -> Figures:
    """Measure a plain loop that creates the same Jobs: the time that the control plane itself needs."""
    with cluster(runs) as (control_plane, kube):
        batch = client.BatchV1Api(kube)
        needed = {f"{PREFIX}{number}": {node.id: set(node.upstream) for node in GRAPH} for number in range(runs)}
        for run in needed:
            create_ready(batch, run, needed[run])
        ended: set[str] = set()
        deadline = time.monotonic() + limit
        # The API server may end a watch at any time. The next one lists every Job again.
        while len(ended) < runs * len(GRAPH) and time.monotonic() < deadline:
            seconds = max(1, int(deadline - time.monotonic()))
            for event in watch.Watch().stream(batch.list_namespaced_job, NAMESPACE, timeout_seconds=seconds):
                job = event["object"]
                if job.metadata.name in ended or not any(c.type == "Complete" for c in job.status.conditions or []):
                    continue
                ended.add(job.metadata.name)
                run, stage = job.metadata.labels["bench/run"], job.metadata.labels["bench/stage"]
                for waits in needed[run].values():
                    waits.discard(stage)
                create_ready(batch, run, needed[run])
                if len(ended) == runs * len(GRAPH):
                    break
        return figures(control_plane)


def create_ready(batch: client.BatchV1Api, run: str, needed: dict[str, set[str]]) -> None:
    """Create the Jobs of a run whose inputs are complete."""
    for node in GRAPH:
        if node.id in needed and not needed[node.id]:
            del needed[node.id]
            batch.create_namespaced_job(NAMESPACE, job_of(run, node))


def job_of(run: str, node: Node) -> dict[str, Any]:
    """The Job that the operator would create, without its owner and its name."""
    spec = EvolutionRunSpec.model_validate(run_spec())
    ref = RunRef(namespace=NAMESPACE, name=run, uid=run)
    key = hashlib.sha256(f"{run}/{node.id}".encode()).hexdigest()
    stage = StageSpec(
        run=ref,
        stage=node.id,
        kind=node.kind,
        iteration=node.iteration,
        key=key,
        attempt=f"{run}-1",
        settings=node.settings,
        seed=node.seed,
        storage=spec.storage,
    )
    job = build_job(ref, spec, Start(stage, 1, 1, True), Settings())
    del job["metadata"]["ownerReferences"]
    job["metadata"]["labels"] = {"bench/run": run, "bench/stage": node.id}
    return job


def figures(control_plane: ControlPlane) -> Figures:
    """Read the namespace's events from the audit log. The last change of a Job's status counts as its end."""
    created: dict[str, float] = {}
    ended: dict[str, float] = {}
    calls: Counter[str] = Counter()
    with control_plane.audit_log.open() as log:
        for line in log:
            event = json.loads(line)
            where, user = event.get("objectRef") or {}, event["user"]["username"]
            if where.get("namespace") != NAMESPACE or event["verb"] == "watch":
                continue
            resource = "/".join(part for part in (where["resource"], where.get("subresource")) if part)
            moment = datetime.fromisoformat(event["stageTimestamp"]).timestamp()
            if user == SERVICE_ACCOUNT:
                calls[f"{event['verb']} {resource}"] += 1
            if event["responseStatus"]["code"] >= 300:
                continue
            if (event["verb"], resource) == ("create", "jobs"):
                created[where["name"]] = moment
            elif user == JOB_CONTROLLER and resource == "jobs/status":
                ended[where["name"]] = moment
    stages = {name: place(name) for name in created}
    named = {place: name for name, place in stages.items()}
    upstream = {node.id: node.upstream for node in GRAPH}
    turns = [
        created[name] - max(ended[named[run, before]] for before in upstream[stage])
        for name, (run, stage) in stages.items()
        if upstream[stage]
    ]
    finished = [moment for name, moment in ended.items() if name in created]
    return Figures(len(finished), max(finished) - min(created.values()), turns, calls)


def place(job: str) -> tuple[str, str]:
    """The run and stage of a Job, from its name: `<run>-<iteration>-<kind>-<digest>`."""
    run, iteration, kind, _ = job.rsplit("-", 3)
    return run, next(node.id for node in GRAPH if (node.kind, node.iteration or 0) == (kind, int(iteration)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[10], help="runs at once, one case each")
    parser.add_argument("--workers", type=int, nargs="+", default=[None], help="workers, one case each; the default's")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which a case is ended")
    parser.add_argument("--calls", action="store_true", help="also print the operator's calls by kind")
    told = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores for everything; load at the start {os.getloadavg()[0]:.1f}\n")
    print(HEADER)
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    for runs in told.runs:
        cases: list[tuple[str, Callable[[], Figures]]] = [("by hand", lambda runs=runs: by_hand(runs, told.limit))]
        for workers in told.workers:
            name = f"{workers or Settings().workers} workers"
            cases.append((name, lambda runs=runs, workers=workers: by_operator(runs, workers, told.limit)))
        floor: Figures | None = None
        for who, measure in cases:
            found = measure()
            floor = floor or found
            ratio = "" if found is floor else f" ({found.seconds / floor.seconds:.2f} times as long)"
            print(found.row(runs, who) + ratio, flush=True)
            if told.calls and found.calls:
                print({call: round(count / found.jobs, 2) for call, count in found.calls.most_common()}, flush=True)


if __name__ == "__main__":
    main()
