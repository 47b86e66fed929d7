"""Random histories on a real control plane: its scheduler and controllers, and the operator as a process.

Their invariants are those of the histories in memory (tests/support/invariants.py), checked on a record of every change.
Stages are fake, and KWOK stands in for the kubelet.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evolution_jobs.contract.stage import StageSpec
from evolution_operator.api.spec import RETRY_ANNOTATION
from evolution_operator.api.status import RunStatus
from evolution_operator.controller import labels
from evolution_operator.controller.events import joined
from evolution_operator.planner.actions import Event
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from hack.cluster.control_plane import ControlPlane
from hack.cluster.kwok import Kwok
from tests.api.harness import OperatorProcess, Outcome, Runs, end, wait_for
from tests.api.recorder import Recorder
from tests.support.cluster.fake_api_server import WatchEvent
from tests.support.cluster.fake_controllers import could_publish, deleting, ended, owner, spec_of, stage, work
from tests.support.invariants import RunHistory, check_inputs, check_rivals, edits, histories
from tests.support.stages.fake_results import Results

NAME = "history"
MOMENT = 5.0
"""Seconds that a step waits for the operator to make progress."""
END_PATIENCE = 180.0


class Record:
    """Checks the invariants on each change, in order."""

    def __init__(self, published: dict[str, int]) -> None:
        self._published = published
        """When each key was first published, as a resourceVersion."""
        self._histories: dict[str, RunHistory] = {}
        self._live: dict[str, dict[str, dict[str, Any]]] = {"jobs": {}, "pods": {}}

    def check(self, version: int, change: WatchEvent) -> None:
        """Check the next change."""
        body = change.body
        uid = body["metadata"]["uid"]
        if change.kind in self._live:
            self._live[change.kind][uid] = body
            if change.type == "DELETED":
                del self._live[change.kind][uid]
        if change.type == "DELETED":
            return
        if change.kind == "evolutionruns" and body.get("status"):
            history = self._histories.setdefault(uid, RunHistory(joined))
            status = RunStatus.model_validate(body["status"])
            if status != history.status:
                history.write(status)
        elif change.kind == "events" and body["source"].get("component") == labels.OPERATOR:
            if body["reason"] != "CleanupFailed":
                event = Event(body["type"], body["reason"], body["message"])
                self._histories[body["involvedObject"]["uid"]].record(event)
        elif change.kind == "jobs" and change.type == "ADDED":
            self._check_job(version, body)

    def _check_job(self, version: int, job: dict[str, Any]) -> None:
        live = list(could_publish(self._live["jobs"].values(), self._live["pods"].values()))
        if stage(job) == labels.CLEANUP:
            assert not live, "artifacts are deleted while a stage may write"
            return
        spec = StageSpec.model_validate(spec_of(job["spec"]["template"]))
        published = [key for key, since in self._published.items() if since < version]
        check_inputs(spec, published, job["metadata"]["name"])
        self._histories.setdefault(owner(job), RunHistory(joined)).start(
            spec, int(job["metadata"]["labels"][labels.ATTEMPT])
        )
        check_rivals(live)


class Reconciling(RuleBasedStateMachine):
    """One namespace, one operator, and runs of one name, one after the other."""

    def __init__(self, kube: client.ApiClient, new_operator: Callable[[str], OperatorProcess]) -> None:
        super().__init__()
        namespace = f"test-{uuid.uuid4().hex[:10]}"
        self.core = client.CoreV1Api(kube)
        self.core.create_namespace({"metadata": {"name": namespace}})
        self.runs = Runs(kube, namespace)
        self.recorder = Recorder(kube, namespace)
        self.results = Results()
        self.published: dict[str, int] = {}
        self.retries = 0
        self.operator = new_operator(namespace)
        self.operator.start()

    @initialize(shards=st.sampled_from([1, 2]), policy=st.sampled_from(["Retain", "Delete"]), rounds=st.integers(0, 4))
    def begin(self, shards, policy, rounds):
        """A run that has made some progress already."""
        self.spec = {"iterations": 1, "generation": {"shards": shards}, "deletionPolicy": policy}
        self.create_run()
        for _ in range(rounds):
            self.some_process_ends(0, "well")

    # ---- the current state

    def run(self):
        with contextlib.suppress(ApiException):
            return self.runs.get(NAME)
        return None

    def phase(self):
        run = self.run()
        status = (run or {}).get("status") or {}
        return status.get("phase") if run and status.get("observedGeneration") == run["metadata"]["generation"] else ""

    def pods(self, *phases):
        return [pod for pod in self.recorder.items("pods") if pod["status"]["phase"] in phases]

    def pick(self, items, index):
        return items[index % len(items)] if items else None

    # ---- the cluster

    @rule(index=st.integers(0, 5), how=st.sampled_from(["well", "well", "well", "well", "silently", 1, 65, 75, 137]))
    def some_process_ends(self, index, how):
        """One of those that run. If none does, one that starts soon, if any."""
        deadline = time.monotonic() + MOMENT
        while not (running := self.pods("Running")) and time.monotonic() < deadline:
            if self.phase() in ("Complete", "Failed", "Suspended"):
                return
            time.sleep(0.05)
        self.end(self.pick(running, index), how)

    def end(self, pod, how):
        if pod is None:
            return
        if isinstance(how, int):
            code, report = how, {"reason": "Reported", "message": "a message"} if how != 137 else {}
        else:
            before = set(self.results.store)
            code, report = work(self.results, pod)
            version = int(pod["metadata"]["resourceVersion"])
            self.published |= {key: version for key in self.results.store.keys() - before if key not in self.published}
            # An evaluation does not run again if its report is lost: its figures are in the store, if not in the status.
            if how == "silently" and not stage(pod).startswith("evaluate"):
                report = {"reason": "unreadable"}
        with contextlib.suppress(ApiException):
            end(self.core, self.runs.namespace, pod["metadata"]["name"], stage(pod), Outcome(code, report))

    @rule(index=st.integers(0, 5), evicts=st.booleans())
    def a_pod_is_deleted(self, index, evicts):
        if pod := self.pick(self.pods("Pending", "Running"), index):
            name, namespace = pod["metadata"]["name"], self.runs.namespace
            with contextlib.suppress(ApiException):
                if evicts:
                    self.core.create_namespaced_pod_eviction(name, namespace, {"metadata": {"name": name}})
                else:
                    self.core.delete_namespaced_pod(name, namespace)

    @rule(index=st.integers(0, 20), moves=st.booleans())
    def a_result_is_lost(self, index, moves):
        self.results.edition += moves
        if key := self.pick(sorted(self.results.store), index):
            self.results.withdraw(key)

    @rule(waits=st.booleans())
    def the_operator_is_killed(self, waits):
        self.operator.kill()
        self.operator.start()
        if waits:
            self.wait_for_a_pass()

    @rule()
    def no_faults_for_a_while(self):
        self.remove_obstacles()
        for _ in range(3):
            self.some_process_ends(0, "well")

    # ---- the user

    def create_run(self):
        self.runs.create(NAME, **self.spec, retry={"maxAttempts": 2, "backoffSeconds": 1})

    def patch(self, patch):
        with contextlib.suppress(ApiException):
            self.runs.patch(NAME, patch)

    @rule(edit=st.sampled_from(edits(deadline=3)))
    def the_user_edits(self, edit):
        self.patch({"spec": edit})

    @rule()
    def the_user_asks_for_a_retry(self):
        self.retries += 1
        self.patch({"metadata": {"annotations": {RETRY_ANNOTATION: str(self.retries)}}})

    @rule(index=st.integers(0, 9), how=st.sampled_from(["Background", "Foreground", "edit"]))
    def the_user_changes_a_job(self, index, how):
        jobs = self.recorder.items("jobs")
        if job := self.pick([job for job in jobs if not ended(job)] or jobs, index):
            name, namespace = job["metadata"]["name"], self.runs.namespace
            with contextlib.suppress(ApiException):
                if how == "edit":
                    edit = {"metadata": {"labels": {labels.ATTEMPT: None}}}
                    self.runs.batch.patch_namespaced_job(name, namespace, edit)
                else:
                    self.runs.batch.delete_namespaced_job(name, namespace, propagation_policy=how)

    @rule()
    def the_user_deletes_or_recreates_the_run(self):
        if self.run() is None:
            self.create_run()
        else:
            with contextlib.suppress(ApiException):
                self.runs.delete(NAME)

    # ---- the end

    def teardown(self):
        """Without further faults, a run that is being deleted disappears, and any other ends Complete."""
        try:
            if hasattr(self, "spec"):
                self.check_the_end()
        finally:
            self.operator.stop()
            record = Record(self.published)
            for version, change in self.recorder.stop():
                record.check(version, change)
            self.core.delete_namespace(self.runs.namespace)

    def check_the_end(self):
        if (run := self.run()) and deleting(run):
            self.check_deletion(run)
        self.remove_obstacles()
        self.finish_processes_until(lambda: self.phase() == "Complete", "the run is Complete")
        run = self.run()
        figures = [entry["iteration"] for entry in run["status"]["metrics"]]
        assert figures == list(range(run["spec"]["iterations"] + 1))
        self.check_fixed_point()
        self.operator.kill()
        self.operator.start()
        self.check_fixed_point()
        self.runs.delete(NAME)
        self.check_deletion(run)

    def remove_obstacles(self):
        if self.run() is None:
            self.create_run()
        self.patch({"spec": {"suspend": False, "activeDeadlineSeconds": None}})
        if self.phase() == "Failed":
            self.the_user_asks_for_a_retry()

    def finish_processes_until(self, done, what):
        """Let all processes succeed until `done` is true."""

        def step():
            for pod in self.pods("Running"):
                self.end(pod, "well")
            if self.phase() == "Failed":
                self.the_user_asks_for_a_retry()
            return done()

        wait_for(step, bool, what, END_PATIENCE)

    def check_deletion(self, run):
        uid = run["metadata"]["uid"]

        def left():
            live = {item["metadata"]["uid"] for item in self.recorder.items("evolutionruns")}
            return live | {owner(job) for job in self.recorder.items("jobs")}

        self.finish_processes_until(lambda: uid not in left(), "the run is gone with all that it owns")
        self.finish_processes_until(lambda: all(map(ended, self.recorder.items("jobs"))), "its cleanup has ended")

    def check_fixed_point(self):
        """A finished run is a fixed point: passes over it write nothing."""
        self.wait_for_a_pass()
        before = self.versions()
        self.runs.patch(NAME, {"metadata": {"annotations": {"another/writer": uuid.uuid4().hex}}})
        self.wait_for_a_pass()
        after = self.versions()
        assert after["jobs"] == before["jobs"]
        assert after["status"] == before["status"]

    def versions(self):
        run = self.run()
        jobs = {job["metadata"]["name"]: job["metadata"]["resourceVersion"] for job in self.recorder.items("jobs")}
        return {"jobs": jobs, "status": run["status"]}

    def wait_for_a_pass(self):
        def passes():
            with contextlib.suppress(OSError):
                lines = self.operator.get("/metrics").splitlines()
                return next(
                    float(line.split()[1]) for line in lines if line.startswith("evolution_reconcile_seconds_count")
                )
            return 0.0

        before = passes()
        if self.run() is not None:
            self.patch({"metadata": {"annotations": {"another/nudge": uuid.uuid4().hex}}})
            wait_for(passes, lambda count: count > before, "a pass over the run")


def test_no_history_repeats_or_loses_work(
    installed: ControlPlane, kwok: Kwok, kube: client.ApiClient, tmp_path: Path
) -> None:
    def new_operator(namespace: str) -> OperatorProcess:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        return OperatorProcess(installed, folder, namespaces=(namespace,), name="operator")

    # The cluster decides when things happen, so Hypothesis cannot shorten a history by repeating it.
    chosen = settings(histories(5, 12), phases=[Phase.generate], derandomize="N" not in os.environ, database=None)
    run_state_machine_as_test(lambda: Reconciling(kube, new_operator), settings=chosen)
