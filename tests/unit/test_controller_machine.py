"""The controller against a cluster that does its worst: everything but the API server and what lies behind it is real.

Jobs fail, vanish and are edited, watches lag, break and skip, calls fail before and after they take effect, the operator
is killed between any two of them, and a user suspends, extends, retries, deletes and begins again.
"""

from datetime import UTC, datetime, timedelta

from evolution_jobs.contract.stage import StageSpec
from evolution_operator.api.spec import RETRY_ANNOTATION
from evolution_operator.api.status import RunStatus
from evolution_operator.controller import labels
from evolution_operator.controller.events import joined
from evolution_operator.controller.kube.apiserver import ClusterError, NotFoundError, UnreachableError
from evolution_operator.controller.seen.cache import run_key
from evolution_operator.planner.actions import Event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.support.cluster.fake_api_server import ApiServer
from tests.support.cluster.fake_controllers import World, deleting, ended, owner, stage, told
from tests.support.cluster.operator_in_process import KEY, KINDS, RUNS, Killed, Operator, Then
from tests.support.invariants import Memory, check_inputs, check_rivals, edits, histories

SPEC = {
    "baseModel": {"uri": "hf://owner/model"},
    "storage": {"uri": "s3://bucket/runs"},
    "data": {"seed": [{"uri": "hf://owner/esconv", "format": "esconv"}]},
    "iterations": 1,
    "retry": {"maxAttempts": 2, "backoffSeconds": 10},
}
TROUBLE = st.tuples(
    st.integers(0, 5), st.sampled_from(["before", "after"]), st.sampled_from(["fails", "is_killed", "meets_somebody"])
)
THEN = st.builds(
    Then,
    seen=st.sampled_from([KINDS, KINDS, (), *((kind,) for kind in KINDS)]),
    passes=st.sampled_from([True, True, False]),
    trouble=st.one_of(st.none(), st.none(), TROUBLE),
    works=st.sampled_from([True, True, False]),
    starts=st.sampled_from([True, True, False]),
)


class Controlling(RuleBasedStateMachine):
    @initialize(
        shards=st.sampled_from([1, 2]),
        policy=st.sampled_from(["Retain", "Delete"]),
        rounds=st.integers(0, 6),
    )
    def begin(self, shards, policy, rounds):
        """A run that has come some way already."""
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.server = ApiServer(self.stamp, self.watched, self.before)
        self.world = World(self.server, self.stamp)
        self.spec = SPEC | {"generation": {"shards": shards}, "deletionPolicy": policy}
        self.pending = []
        self.trouble = None
        self.memories = {}
        self.made = set()
        """Keys that were published at some time: whether they still are, the operator may not know yet."""
        self.retries = 0
        self.create_run()
        self.restart()
        self.work(rounds)

    def stamp(self):
        return self.now.isoformat().replace("+00:00", "Z")

    # ---- what holds of every change, whoever makes it

    def watched(self, news):
        if news.kind in KINDS:
            self.pending.append(news)
        if news.type == "DELETED":
            return
        if news.kind == RUNS and news.body.get("status"):
            memory = self.memories.setdefault(news.body["metadata"]["uid"], Memory(joined))
            status = RunStatus.model_validate(news.body["status"])
            if status != memory.status:
                memory.write(status)
            for lost in (s for s in status.stages if s.reason in ("ReportLost", "PodLost")):
                assert not self.world.said(lost.job), f"what {lost.job} has said is there, and was not looked for"
        elif news.kind == "events":
            body = news.body
            if body["reason"] != "CleanupFailed":
                event = Event(body["type"], body["reason"], body["message"])
                self.memories[body["involvedObject"]["uid"]].tell(event)
        elif news.kind == "jobs" and news.type == "ADDED":
            self.check_job(news.body)

    def check_job(self, job):
        if stage(job) == labels.CLEANUP:
            assert not list(self.world.could_publish()), "artifacts are deleted while a stage may write"
            return
        spec = StageSpec.model_validate(told(job["spec"]["template"]))
        self.made |= self.world.results.store.keys()
        check_inputs(spec, self.made, job["metadata"]["name"])
        self.memories.setdefault(owner(job), Memory(joined)).start(spec, int(job["metadata"]["labels"][labels.ATTEMPT]))
        check_rivals(self.world.could_publish())

    # ---- the operator

    def before(self, method, kind, name, body):
        """Trouble comes with one of the calls that follow: before it is made, or once it has taken effect."""
        if self.trouble is None:
            return lambda: None
        calls, when, what = self.trouble
        self.trouble = (calls - 1, when, what) if calls else None
        if calls:
            return lambda: None
        if when == "after":
            return getattr(self, what)
        getattr(self, what)()
        return lambda: None

    def fails(self):
        raise UnreachableError("the connection is gone")

    def is_killed(self):
        raise Killed

    def meets_somebody(self):
        self.patch_run({"metadata": {"annotations": {"somebody/else": self.run() and self.run()["metadata"]["uid"]}}})
        self.patch_run({"metadata": {"annotations": {"somebody/else": None}}})

    def restart(self):
        self.operator = Operator(self.server, lambda: self.now)
        self.pending.clear()

    def reconcile(self):
        try:
            self.operator.reconciler.reconcile(KEY)
        except ClusterError:
            pass
        except Killed:
            self.restart()
        self.trouble = None

    def see_all(self, kinds=KINDS):
        for news in self.pending:
            if news.kind in kinds:
                self.operator.take_in(news)
        self.pending = [news for news in self.pending if news.kind not in kinds]

    def go_on(self, then):
        """Some watches tell what there is, the operator makes a pass, and the cluster may do its part."""
        self.see_all(then.seen)
        self.trouble = then.trouble
        if then.passes:
            self.reconcile()
        if then.works:
            self.controllers_work()
        if then.starts:
            for pod in self.world.pods("Pending"):
                self.world.run_pod(pod)

    # ---- watches and time

    @rule(seconds=st.sampled_from([0, 10, 200]), then=THEN)
    def wait(self, seconds, then):
        self.now += timedelta(seconds=seconds)
        self.go_on(then)

    @rule(index=st.integers(0, 30), skips=st.booleans(), then=THEN)
    def see(self, index, skips, then):
        """The next news of some object; of a burst only the last may be told."""
        if news := self.pick(self.pending, index):
            same = [n for n in self.pending if n.body["metadata"]["uid"] == news.body["metadata"]["uid"]]
            told_ = same if skips else same[:1]
            self.pending = [n for n in self.pending if n not in told_]
            self.operator.take_in(told_[-1])
        self.go_on(then)

    @rule(kind=st.sampled_from(KINDS), then=THEN)
    def break_the_watch(self, kind, then):
        """What is lost is not told; a list follows, and a while later the operator distrusts what it knows."""
        self.pending = [news for news in self.pending if news.kind != kind]
        self.operator.list(kind)
        self.go_on(then)
        self.operator.reconciler.distrust()

    @rule(then=THEN)
    def start_the_operator_anew(self, then):
        self.restart()
        self.go_on(then)

    # ---- the cluster

    def pick(self, items, index):
        return items[index % len(items)] if items else None

    def controllers_work(self):
        for job in self.world.jobs():
            self.world.control(job)
        self.world.collect_garbage()

    @rule(
        index=st.integers(0, 5),
        how=st.sampled_from(["well", "well", "well", "silently", "silently", 1, 65, 75, 137]),
        then=THEN,
    )
    def a_process_ends(self, index, how, then):
        if pod := self.pick(self.world.pods("Running"), index):
            if isinstance(how, int):
                self.world.end(pod, how, {"reason": "Told", "message": "it said so"} if how != 137 else {})
            else:
                # An evaluation whose words are lost is not run again: its figures are in the store, if not in the status.
                self.world.finish(pod, silently=how == "silently" and not stage(pod).startswith("evaluate"))
        self.go_on(then)

    @rule(
        index=st.integers(0, 5),
        how=st.sampled_from(["told", "drained", "stopped", "killed", "lost", "unplaced"]),
        then=THEN,
    )
    def a_pod_is_hit(self, index, how, then):
        if pod := self.pick(self.world.pods(), index):
            if how in ("told", "drained"):
                self.world.delete_pod(pod, disrupted=how == "drained")
            elif how == "lost":
                self.server.remove("pods", pod)
            elif pod["status"]["phase"] == "Pending":
                self.world.find_no_node(pod)
            elif deleting(pod) and how != "unplaced":
                self.world.stop(pod) if how == "stopped" else self.world.end(pod, 137, {})
        self.go_on(then)

    @rule(index=st.integers(0, 20), moves=st.booleans(), then=THEN)
    def a_result_is_lost(self, index, moves, then):
        self.made |= self.world.results.store.keys()
        self.world.results.edition += moves
        if key := self.pick(sorted(self.world.results.store), index):
            self.world.results.withdraw(key)
        self.go_on(then)

    @rule(rounds=st.integers(1, 3))
    def work(self, rounds):
        """All is well for a while, so that the run gets somewhere; then the next stage starts."""
        self.make_well()
        for _ in range(rounds):
            self.round()
        self.go_on(Then())

    def make_well(self):
        """Nothing that anybody wants keeps the run from going on."""
        if not self.run():
            self.create_run()
        self.server.quota = None
        self.patch_run({"spec": {"suspend": False, "activeDeadlineSeconds": None}})
        if self.phase() == "Failed":
            self.ask_for_retry()

    def round(self):
        self.go_on(Then())
        while pods := self.world.pods("Running"):
            self.world.stop(pods[0]) if deleting(pods[0]) else self.world.finish(pods[0])
        self.controllers_work()

    # ---- the user

    def run(self):
        try:
            return self.server.get(RUNS, *KEY)
        except NotFoundError:
            return None

    def patch_run(self, patch):
        if self.run() is not None:
            self.server.patch(RUNS, *KEY, patch)

    def create_run(self):
        metadata = {"name": KEY.name, "namespace": KEY.namespace}
        api = {"apiVersion": "evolution.run/v1alpha1", "kind": "EvolutionRun"}
        self.server.create(RUNS, KEY.namespace, {**api, "metadata": metadata, "spec": self.spec})

    @rule(edit=st.sampled_from(edits(deadline=300)), then=THEN)
    def the_user_edits(self, edit, then):
        self.patch_run({"spec": edit})
        self.go_on(then)

    @rule(then=THEN)
    def the_user_asks_for_a_retry(self, then):
        self.ask_for_retry()
        self.go_on(then)

    def ask_for_retry(self):
        self.retries += 1
        self.patch_run({"metadata": {"annotations": {RETRY_ANNOTATION: str(self.retries)}}})

    @rule(index=st.integers(0, 9), how=st.sampled_from(["Background", "Foreground", "edit"]), then=THEN)
    def the_user_meddles_with_a_job(self, index, how, then):
        jobs = self.world.jobs()
        if job := self.pick([job for job in jobs if not ended(job)] or jobs, index):
            if how == "edit":
                edit = {"metadata": {"labels": {labels.ATTEMPT: None}}}
                self.server.patch("jobs", KEY.namespace, job["metadata"]["name"], edit)
            else:
                self.world.delete_job(job, how)
        self.go_on(then)

    @rule(propagation=st.sampled_from(["Background", "Foreground"]), then=THEN)
    def the_user_deletes_the_run_or_begins_again(self, propagation, then):
        if self.run():
            self.server.delete(RUNS, *KEY, propagation)
        else:
            self.create_run()
        self.go_on(then)

    @rule(quota=st.sampled_from([None, 0, 2]), then=THEN)
    def an_administrator_sets_a_quota(self, quota, then):
        self.server.quota = quota
        self.go_on(then)

    # ---- what must come of it

    def teardown(self):
        """Once the world does no more harm, a run that is being deleted goes, and one that is not ends Complete."""
        if not hasattr(self, "operator"):
            return
        self.server.quota = None
        self.operator.reconciler.distrust()
        if (run := self.run()) and deleting(run):
            self.goes(run)
        self.make_well()
        self.completes()
        run = self.run()
        self.server.delete(RUNS, *KEY, "Background")
        self.goes(run)

    def goes(self, run):
        uid = run["metadata"]["uid"]
        for _ in range(20):
            if uid not in [owner(job) for job in self.world.jobs()] + [
                r["metadata"]["uid"] for r in self.server.all(RUNS)
            ]:
                break
            self.round()
            self.now += timedelta(seconds=60)
        self.world.collect_garbage()
        left = [item for kind in (RUNS, "jobs") for item in self.server.all(kind)]
        assert uid not in [item["metadata"]["uid"] for item in left] + [owner(item) for item in left]
        assert not list(self.world.could_publish())
        for job in self.world.jobs():
            # What has deleted the artifacts has an end, and a time to live after it.
            assert stage(job) == labels.CLEANUP
            assert ended(job)
            self.server.remove("jobs", job)
        self.world.collect_garbage()

    def completes(self):
        for _ in range(60):
            self.round()
            self.now += timedelta(seconds=60)
            phase = self.phase()
            if phase == "Complete":
                break
            if phase == "Failed":
                self.ask_for_retry()
        run = self.run()
        assert self.phase() == "Complete", run["status"]
        status = RunStatus.model_validate(run["status"])
        figures = [entry.iteration for entry in status.metrics]
        assert figures == list(range(run["spec"]["iterations"] + 1))
        self.is_at_rest()
        self.restart()
        self.is_at_rest()

    def phase(self):
        run = self.run()
        status = run.get("status") or {}
        return status.get("phase") if status.get("observedGeneration") == run["metadata"]["generation"] else None

    def is_at_rest(self):
        self.round()
        before = self.server.writes
        for _ in range(2):
            self.see_all()
            self.now += timedelta(seconds=60)
            assert self.operator.reconciler.reconcile(run_key(self.run())) is None
        assert self.server.writes == before, "a finished run is a fixed point"
        assert not list(self.world.could_publish())


TestControlling = Controlling.TestCase
TestControlling.settings = histories(200, 20)
