"""Random histories on a real control plane: its scheduler, Job controller and garbage collector, an operator's process.

What must hold of them is what holds of the histories in memory (tests/support/invariants.py), asked of a record of everything
that happened. What stages do is played, and KWOK plays the kubelet.
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
from tests.support.cluster.fake_api_server import News
from tests.support.cluster.fake_controllers import could_publish, deleting, ended, owner, stage, told, work
from tests.support.invariants import Memory, check_inputs, check_rivals, edits, histories
from tests.support.stages.fake_results import Results

NAME = "history"
MOMENT = 5.0
"""Seconds that a step waits for the operator to get somewhere, where it can."""
TO_THE_END = 180.0


class Record:
    """Asks of each change, in the order in which they happened, what must hold of it."""

    def __init__(self, made: dict[str, int]) -> None:
        self._made = made
        """When each key was first published, as a resourceVersion."""
        self._memories: dict[str, Memory] = {}
        self._there: dict[str, dict[str, dict[str, Any]]] = {"jobs": {}, "pods": {}}

    def take_in(self, version: int, news: News) -> None:
        """The next change."""
        body = news.body
        uid = body["metadata"]["uid"]
        if news.kind in self._there:
            self._there[news.kind][uid] = body
            if news.type == "DELETED":
                del self._there[news.kind][uid]
        if news.type == "DELETED":
            return
        if news.kind == "evolutionruns" and body.get("status"):
            memory = self._memories.setdefault(uid, Memory(joined))
            status = RunStatus.model_validate(body["status"])
            if status != memory.status:
                memory.write(status)
        elif news.kind == "events" and body["source"].get("component") == labels.OPERATOR:
            if body["reason"] != "CleanupFailed":
                event = Event(body["type"], body["reason"], body["message"])
                self._memories[body["involvedObject"]["uid"]].tell(event)
        elif news.kind == "jobs" and news.type == "ADDED":
            self._check_job(version, body)

    def _check_job(self, version: int, job: dict[str, Any]) -> None:
        live = list(could_publish(self._there["jobs"].values(), self._there["pods"].values()))
        if stage(job) == labels.CLEANUP:
            assert not live, "artifacts are deleted while a stage may write"
            return
        spec = StageSpec.model_validate(told(job["spec"]["template"]))
        published = [key for key, since in self._made.items() if since < version]
        check_inputs(spec, published, job["metadata"]["name"])
        self._memories.setdefault(owner(job), Memory(joined)).start(
            spec, int(job["metadata"]["labels"][labels.ATTEMPT])
        )
        check_rivals(live)


class Reconciling(RuleBasedStateMachine):
    """One namespace, one operator, one run after the other of one name."""

    def __init__(self, kube: client.ApiClient, new_operator: Callable[[str], OperatorProcess]) -> None:
        super().__init__()
        namespace = f"test-{uuid.uuid4().hex[:10]}"
        self.core = client.CoreV1Api(kube)
        self.core.create_namespace({"metadata": {"name": namespace}})
        self.runs = Runs(kube, namespace)
        self.recorder = Recorder(kube, namespace)
        self.results = Results()
        self.made: dict[str, int] = {}
        self.retries = 0
        self.operator = new_operator(namespace)
        self.operator.start()

    @initialize(shards=st.sampled_from([1, 2]), policy=st.sampled_from(["Retain", "Delete"]), rounds=st.integers(0, 4))
    def begin(self, shards, policy, rounds):
        """A run that has come some way already."""
        self.spec = {"iterations": 1, "generation": {"shards": shards}, "deletionPolicy": policy}
        self.create_run()
        for _ in range(rounds):
            self.some_process_ends(0, "well")

    # ---- what there is

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
        """Of those that run; where none does, one that starts soon, if any."""
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
            code, words = how, {"reason": "Told", "message": "it said so"} if how != 137 else {}
        else:
            before = set(self.results.store)
            code, words = work(self.results, pod)
            version = int(pod["metadata"]["resourceVersion"])
            self.made |= {key: version for key in self.results.store.keys() - before if key not in self.made}
            # An evaluation whose words are lost is not run again: its figures are in the store, if not in the status.
            if how == "silently" and not stage(pod).startswith("evaluate"):
                words = {"reason": "unreadable"}
        with contextlib.suppress(ApiException):
            end(self.core, self.runs.namespace, pod["metadata"]["name"], stage(pod), Outcome(code, words))

    @rule(index=st.integers(0, 5), evicts=st.booleans())
    def a_pod_is_hit(self, index, evicts):
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
    def all_is_well_for_a_while(self):
        self.make_well()
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
    def the_user_meddles_with_a_job(self, index, how):
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
    def the_user_deletes_the_run_or_begins_again(self):
        if self.run() is None:
            self.create_run()
        else:
            with contextlib.suppress(ApiException):
                self.runs.delete(NAME)

    # ---- what must come of it

    def teardown(self):
        """Once the world does no more harm, a run that is being deleted goes, and one that is not ends Complete."""
        try:
            if hasattr(self, "spec"):
                self.to_the_end()
        finally:
            self.operator.stop()
            record = Record(self.made)
            for version, news in self.recorder.stop():
                record.take_in(version, news)
            self.core.delete_namespace(self.runs.namespace)

    def to_the_end(self):
        if (run := self.run()) and deleting(run):
            self.goes(run)
        self.make_well()
        self.keep_on(lambda: self.phase() == "Complete", "the run is Complete")
        run = self.run()
        figures = [entry["iteration"] for entry in run["status"]["metrics"]]
        assert figures == list(range(run["spec"]["iterations"] + 1))
        self.is_at_rest()
        self.operator.kill()
        self.operator.start()
        self.is_at_rest()
        self.runs.delete(NAME)
        self.goes(run)

    def make_well(self):
        if self.run() is None:
            self.create_run()
        self.patch({"spec": {"suspend": False, "activeDeadlineSeconds": None}})
        if self.phase() == "Failed":
            self.the_user_asks_for_a_retry()

    def keep_on(self, done, what):
        """All processes end well until something is so."""

        def step():
            for pod in self.pods("Running"):
                self.end(pod, "well")
            if self.phase() == "Failed":
                self.the_user_asks_for_a_retry()
            return done()

        wait_for(step, bool, what, TO_THE_END)

    def goes(self, run):
        uid = run["metadata"]["uid"]

        def left():
            live = {item["metadata"]["uid"] for item in self.recorder.items("evolutionruns")}
            return live | {owner(job) for job in self.recorder.items("jobs")}

        self.keep_on(lambda: uid not in left(), "the run is gone with all that it owns")
        self.keep_on(lambda: all(map(ended, self.recorder.items("jobs"))), "its cleanup has ended")

    def is_at_rest(self):
        """A finished run is a fixed point: passes over it write nothing."""
        self.wait_for_a_pass()
        before = self.versions()
        self.runs.patch(NAME, {"metadata": {"annotations": {"somebody/else": uuid.uuid4().hex}}})
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
            self.patch({"metadata": {"annotations": {"somebody/knocks": uuid.uuid4().hex}}})
            wait_for(passes, lambda count: count > before, "a pass over the run")


def test_whatever_happens_no_work_is_doubled_and_none_is_lost(
    installed: ControlPlane, kwok: Kwok, kube: client.ApiClient, tmp_path: Path
) -> None:
    def new_operator(namespace: str) -> OperatorProcess:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        return OperatorProcess(installed, folder, namespaces=(namespace,), name="operator")

    # What happens when is the cluster's own affair: a history cannot be made shorter by trying it again.
    chosen = settings(histories(5, 12), phases=[Phase.generate], derandomize="N" not in os.environ, database=None)
    run_state_machine_as_test(lambda: Reconciling(kube, new_operator), settings=chosen)
