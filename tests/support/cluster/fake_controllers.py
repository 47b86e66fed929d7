"""The rest of a cluster, step by step: Job controller, garbage collector, kubelet, and stages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from evolution_jobs.contract.errors import EXIT_PERMANENT, EXIT_TERMINATED
from evolution_operator.controller import labels
from evolution_operator.controller.labels import CONTAINER

from tests.support.cluster.fake_api_server import FOREGROUND, ApiServer, Object
from tests.support.stages.fake_results import Results

INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass
class World:
    """Everything that happens in a cluster once the operator has created a Job."""

    server: ApiServer
    clock: Callable[[], str]
    results: Results = field(default_factory=Results)

    # ---- what there is

    def jobs(self) -> list[Object]:
        """All Jobs."""
        return list(self.server.all("jobs"))

    def pods(self, *phases: str) -> list[Object]:
        """All Pods of these phases."""
        return [pod for pod in self.server.all("pods") if pod["status"]["phase"] in (phases or ("Pending", "Running"))]

    def could_publish(self) -> Iterator[tuple[str, str, str]]:
        """See `could_publish` below."""
        return could_publish(self.jobs(), self.pods())

    def messages(self, job: str) -> list[str]:
        """Termination messages of the ended Pods of a Job that still exist."""
        uids = [item["metadata"]["uid"] for item in self.jobs() if item["metadata"]["name"] == job]
        found = [terminated(pod).get("message") for pod in self.server.all("pods") if owner(pod) in uids]
        return [text for text in found if text]

    # ---- controllers

    def control(self, job: Object) -> None:
        """One pass of the Job controller."""
        if deleting(job) or ended(job):
            return
        pods = [pod for pod in self.server.all("pods") if owner(pod) == job["metadata"]["uid"]]
        alive = [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]
        status = job.get("status") or {}
        done = set(status.get("done", [])) | {index(pod) for pod in pods if pod["status"]["phase"] == "Succeeded"}
        counted = [pod for pod in pods if pod["status"]["phase"] == "Failed" and not _ignored(pod)]
        policy = any(exit_code(pod) == EXIT_PERMANENT for pod in counted)
        change: Object = {"startTime": status.get("startTime") or self.clock(), "done": sorted(done)}
        change["succeeded"] = len(done)
        if policy or len(counted) > job["spec"]["backoffLimit"] or status.get("failing"):
            change["failing"] = status.get("failing") or ("PodFailurePolicy" if policy else "BackoffLimitExceeded")
            self._end_all(alive)
            if not alive:
                change["conditions"] = [self._condition("Failed", change["failing"])]
        elif len(done) >= (job["spec"].get("completions") or 1):
            self._end_all(alive)
            if not alive:
                change["conditions"] = [self._condition("Complete", "CompletionsReached")]
        elif job["spec"].get("suspend"):
            self._end_all(alive)
        else:
            for number in set(range(job["spec"].get("completions") or 1)) - done - {index(pod) for pod in alive}:
                self._create_pod(job, number)
        self._patch("jobs", job, {"status": change})

    def collect_garbage(self) -> None:
        """One pass of the garbage collector."""
        uids = {item["metadata"]["uid"] for kind in ("evolutionruns", "jobs") for item in self.server.all(kind)}
        leaving = {job["metadata"]["uid"] for job in self.jobs() if deleting(job)}
        for pod in list(self.server.all("pods")):
            if owner(pod) not in uids - leaving:
                self.delete_pod(pod)
        runs = {run["metadata"]["uid"]: run for run in self.server.all("evolutionruns")}
        for job in self.jobs():
            run = runs.get(owner(job))
            orphan = owner(job) and run is None
            foreground = run is not None and deleting(run) and FOREGROUND in run["metadata"]["finalizers"]
            if (orphan or foreground) and not deleting(job):
                self.delete_job(job, "Foreground" if foreground else "Background")
        owners = {owner(item) for kind in ("jobs", "pods") for item in self.server.all(kind)}
        for kind in ("jobs", "evolutionruns"):
            for item in list(self.server.all(kind)):
                finalizers = item["metadata"].get("finalizers") or []
                if FOREGROUND in finalizers and item["metadata"]["uid"] not in owners:
                    left = [name for name in finalizers if name != FOREGROUND]
                    self._patch(kind, item, {"metadata": {"finalizers": left}})

    def delete_job(self, job: Object, propagation: str) -> None:
        """As `kubectl delete` does."""
        self.server.delete("jobs", job["metadata"]["namespace"], job["metadata"]["name"], propagation)

    def delete_pod(self, pod: Object, disrupted: bool = False) -> None:
        """Ask a Pod to stop. One that does not run is removed at once."""
        if pod["status"]["phase"] != "Running":
            self.server.remove("pods", pod)
            return
        change: Object = {"metadata": {"deletionTimestamp": self.clock()}}
        if disrupted:
            change["status"] = {"conditions": [{"type": "DisruptionTarget", "status": "True"}]}
        self._patch("pods", pod, change)

    def _end_all(self, pods: list[Object]) -> None:
        for pod in pods:
            if not deleting(pod):
                self.delete_pod(pod)

    def _create_pod(self, job: Object, number: int) -> None:
        template = job["spec"]["template"]
        name = f"{job['metadata']['name']}-{number}"
        taken = {pod["metadata"]["name"] for pod in self.server.all("pods")}
        metadata = {
            "name": next(f"{name}-{n}" for n in range(1000) if f"{name}-{n}" not in taken),
            "labels": template["metadata"]["labels"],
            "annotations": {**template["metadata"]["annotations"], INDEX: str(number)},
            "ownerReferences": [{"kind": "Job", "uid": job["metadata"]["uid"], "controller": True}],
        }
        body = {"metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending"}}
        self.server.create("pods", job["metadata"]["namespace"], body)

    # ---- kubelet and stages

    def run_pod(self, pod: Object) -> None:
        """Its process starts."""
        state = {"running": {"startedAt": self.clock()}}
        change = {"phase": "Running", "conditions": [], "containerStatuses": [{"name": CONTAINER, "state": state}]}
        self._patch("pods", pod, {"spec": {"nodeName": "node-1"}, "status": change})

    def find_no_node(self, pod: Object) -> None:
        """The scheduler has no room for it."""
        found = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
        self._patch("pods", pod, {"status": {"conditions": [found]}})

    def finish(self, pod: Object, silently: bool = False) -> None:
        """Its process does its work, or finds that it cannot. If `silently`, its report is lost."""
        code, report = work(self.results, pod)
        self.end(pod, code, {} if silently else report)

    def end(self, pod: Object, code: int, report: Object, reason: str = "") -> None:
        """Its process ends."""
        ended_ = {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "message": json.dumps(report) if report else "",
            "startedAt": self.clock(),
            "finishedAt": self.clock(),
        }
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": CONTAINER, "state": {"terminated": ended_}}],
        }
        ended_pod = self._patch("pods", pod, {"status": status})
        for job in self.jobs():
            # The Job's finalizer holds its Pods until it has counted them.
            if job["metadata"]["uid"] == owner(pod):
                self.control(job)
        if deleting(ended_pod):
            self.server.remove("pods", ended_pod)

    def stop(self, pod: Object) -> None:
        """Its process was asked to stop: it saves its state and exits."""
        self.end(pod, EXIT_TERMINATED, {"reason": "Terminated", "message": "asked to stop"})

    def _condition(self, type_: str, reason: str) -> Object:
        return {"type": type_, "status": "True", "reason": reason, "lastTransitionTime": self.clock()}

    def _patch(self, kind: str, item: Object, change: Object) -> Object:
        return self.server.patch(kind, item["metadata"]["namespace"], item["metadata"]["name"], change)


def could_publish(jobs: Iterable[Object], pods: Iterable[Object]) -> Iterator[tuple[str, str, str]]:
    """Stage, key and Job of every process that may still write, and of every Job that may still start one."""
    for pod in pods:
        if stage(pod) != labels.CLEANUP and pod["status"]["phase"] in ("Pending", "Running"):
            yield stage(pod), spec_of(pod)["key"], owner(pod)
    for job in jobs:
        idle = ended(job) or deleting(job) or job["spec"].get("suspend")
        if stage(job) != labels.CLEANUP and not idle:
            yield stage(job), job["metadata"]["annotations"][labels.KEY], job["metadata"]["uid"]


def work(results: Results, pod: Object) -> tuple[int, Object]:
    """Let the Pod's process do its work. Returns its exit code and report."""
    return results.clean_up(spec_of(pod)) if stage(pod) == labels.CLEANUP else results.work(spec_of(pod), index(pod))


def stage(item: Object) -> str:
    """The stage of a Job or Pod."""
    found: str = item["metadata"]["labels"].get(labels.STAGE, "")
    return found


def spec_of(pod: Object) -> dict[str, Any]:
    """The document that the Pod's process gets: a `StageSpec`, or the input of a cleanup."""
    document: dict[str, Any] = json.loads(pod["metadata"]["annotations"][labels.SPEC])
    return document


def index(pod: Object) -> int:
    """The Pod's shard."""
    return int(pod["metadata"]["annotations"].get(INDEX, 0))


def owner(item: Object) -> str:
    """Uid of the owner, empty if there is none."""
    return next((reference["uid"] for reference in item["metadata"].get("ownerReferences", [])), "")


def deleting(item: Object) -> bool:
    """Whether it is being deleted."""
    return bool(item["metadata"].get("deletionTimestamp"))


def ended(job: Object) -> bool:
    """Whether the Job is Complete or Failed."""
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(each["type"] in ("Complete", "Failed") for each in conditions)


def terminated(pod: Object) -> Object:
    """How its process ended; empty if it has not."""
    found: list[Object] = [
        status["state"].get("terminated", {}) for status in pod["status"].get("containerStatuses", [])
    ]
    return found[0] if found else {}


def exit_code(pod: Object) -> int | None:
    """The exit code of its process."""
    code: int | None = terminated(pod).get("exitCode")
    return code


def _ignored(pod: Object) -> bool:
    disrupted = any(condition["type"] == "DisruptionTarget" for condition in pod["status"].get("conditions", []))
    return disrupted or exit_code(pod) == EXIT_TERMINATED
