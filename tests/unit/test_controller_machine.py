"""The controller against a cluster that does its worst: everything but the API server and what lies behind it is real.

Jobs fail, vanish and are edited, watches lag, break and skip, calls fail before and after they take effect, the operator
is killed between any two of them, and a user suspends, extends, retries, deletes and begins again.
"""

from datetime import UTC, datetime, timedelta

from evolution_jobs.contract.stage import StageSpec
from evolution_operator.api.status import RunStatus
from evolution_operator.controller import labels
from evolution_operator.controller.apiserver import ClusterError, NotFoundError, UnreachableError
from evolution_operator.controller.cache import run_key
from evolution_operator.planner.actions import Event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.api_server import ApiServer
from tests.cluster_world import World, deleting, ended, owner, stage, told
from tests.histories import Memory, check_inputs, check_rivals, histories
from tests.operator_in_memory import KEY, KINDS, RUNS, Operator

SPEC = {
    "baseModel": {"uri": "hf://owner/model"},
    "storage": {"uri": "s3://bucket/runs"},
    "data": {"seed": [{"uri": "hf://owner/esconv", "format": "esconv"}]},
    "iterations": 1,
    "retry": {"maxAttempts": 2, "backoffSeconds": 10},
}


class Killed(BaseException):
    """The operator's process is gone."""


class Controlling(RuleBasedStateMachine):
    @initialize(
        shards=st.sampled_from([1, 2]),
        policy=st.sampled_from(["Retain", "Delete"]),
        rounds=st.sampled_from([0, 1, 2, 4, 8]),
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
            memory = self.memories.setdefault(news.body["metadata"]["uid"], Memory())
            status = RunStatus.model_validate(news.body["status"])
            if status != memory.status:
                memory.write(status)
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
        self.made |= self.world.store.keys()
        check_inputs(spec, self.made, job["metadata"]["name"])
        self.memories.setdefault(owner(job), Memory()).start(spec, int(job["metadata"]["labels"][labels.ATTEMPT]))
        check_rivals(self.world.could_publish())

    # ---- the operator

    def before(self, method, kind, name, body):
        if self.trouble is None:
            return lambda: None
        calls, when, what = self.trouble
        self.trouble = (calls - 1, when, what) if calls else None
        if calls:
            return lambda: None
        if when == "after":
            return what
        what()
        return lambda: None

    def fails(self):
        raise UnreachableError("the connection is gone")

    def is_killed(self):
        raise Killed

    def somebody_writes(self):
        self.patch_run({"metadata": {"annotations": {"somebody/else": str(self.server._version)}}})

    @rule()
    def restart(self):
        self.operator = Operator(self.server, lambda: self.now)
        self.pending.clear()

    @rule(seen=st.sampled_from([KINDS, KINDS, (), *((kind,) for kind in KINDS)]), works=st.booleans())
    def go_on(self, seen, works):
        """A pass, with watches of some kinds up to date; what it has made may come to life at once."""
        self.see_all(seen)
        self.reconcile()
        if works:
            self.controllers_work()
            for pod in self.world.pods("Pending"):
                self.world.run_pod(pod)

    def reconcile(self):
        try:
            self.operator.reconciler.reconcile(KEY)
        except ClusterError:
            pass
        except Killed:
            self.restart()
        self.trouble = None

    @rule(
        calls=st.integers(0, 5),
        when=st.sampled_from(["before", "after"]),
        what=st.sampled_from(["fails", "is_killed", "somebody_writes"]),
    )
    def reconcile_in_trouble(self, calls, when, what):
        self.see_all()
        self.trouble = (calls, when, getattr(self, what))
        self.reconcile()

    # ---- what the operator sees

    @precondition(lambda self: self.pending)
    @rule(index=st.integers(0, 30), skips=st.booleans())
    def see(self, index, skips):
        """The next news of some object; of a burst only the last may be told."""
        news = self.pending[index % len(self.pending)]
        same = [n for n in self.pending if n.body["metadata"]["uid"] == news.body["metadata"]["uid"]]
        told_ = same if skips else same[:1]
        self.pending = [n for n in self.pending if n not in told_]
        self.operator.take_in(told_[-1])

    def see_all(self, kinds=KINDS):
        for news in self.pending:
            if news.kind in kinds:
                self.operator.take_in(news)
        self.pending = [news for news in self.pending if news.kind not in kinds]

    @rule(kind=st.sampled_from(KINDS), soon=st.booleans())
    def break_the_watch(self, kind, soon):
        """What is lost is not told; a list follows, and a while later the operator distrusts what it knows."""
        self.pending = [news for news in self.pending if news.kind != kind]
        self.operator.list(kind)
        if not soon:
            self.reconcile()
        self.operator.reconciler.distrust()

    # ---- the cluster

    def pick(self, items, index):
        return items[index % len(items)] if items else None

    @rule()
    def controllers_work(self):
        for job in self.world.jobs():
            self.world.control(job)
        self.world.collect_garbage()

    @precondition(lambda self: self.world.pods("Pending"))
    @rule(index=st.integers(0, 5))
    def start_a_pod(self, index):
        if pod := self.pick(self.world.pods("Pending"), index):
            self.world.run_pod(pod)

    @precondition(lambda self: self.world.pods("Pending"))
    @rule(index=st.integers(0, 5))
    def find_no_node(self, index):
        if pod := self.pick(self.world.pods("Pending"), index):
            self.world.find_no_node(pod)

    @precondition(lambda self: self.world.pods("Running"))
    @rule(index=st.integers(0, 5), silently=st.booleans())
    def finish(self, index, silently):
        if pod := self.pick(self.world.pods("Running"), index):
            self.world.finish(pod, silently)

    @precondition(lambda self: self.world.pods("Running"))
    @rule(index=st.integers(0, 5), code=st.sampled_from([1, 65, 75, 137]), says=st.booleans())
    def fail(self, index, code, says):
        if pod := self.pick(self.world.pods("Running"), index):
            self.world.end(pod, code, {"reason": "Told", "message": "it said so"} if says else {})

    @precondition(lambda self: any(map(deleting, self.world.pods("Running"))))
    @rule(index=st.integers(0, 5), killed=st.booleans())
    def those_told_to_end_do(self, index, killed):
        if pod := self.pick([pod for pod in self.world.pods("Running") if deleting(pod)], index):
            self.world.end(pod, 137, {}) if killed else self.world.stop(pod)

    @precondition(lambda self: self.world.pods())
    @rule(index=st.integers(0, 5), disrupted=st.booleans())
    def evict(self, index, disrupted):
        if pod := self.pick(self.world.pods(), index):
            self.world.delete_pod(pod, disrupted)

    @precondition(lambda self: list(self.server.all("pods")))
    @rule(index=st.integers(0, 5))
    def lose_a_pod(self, index):
        if pod := self.pick(list(self.server.all("pods")), index):
            self.server.remove("pods", pod)

    @precondition(lambda self: self.world.store)
    @rule(index=st.integers(0, 20))
    def lose_a_result(self, index):
        self.made |= self.world.store.keys()
        if key := self.pick(sorted(self.world.store), index):
            self.world.withdraw(key)

    @rule()
    def the_source_moves(self):
        self.world.edition += 1

    @rule(rounds=st.integers(1, 4))
    def work(self, rounds):
        """All is well for a while, so that the run gets somewhere."""
        for _ in range(rounds):
            self.round()

    def round(self):
        self.see_all()
        self.reconcile()
        self.controllers_work()
        for pod in self.world.pods("Pending"):
            self.world.run_pod(pod)
        while pods := self.world.pods("Running"):
            self.world.stop(pods[0]) if deleting(pods[0]) else self.world.finish(pods[0])
        self.controllers_work()

    # ---- the user and the clock

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

    @rule(suspend=st.booleans())
    def suspend(self, suspend):
        self.patch_run({"spec": {"suspend": suspend}})

    @rule()
    def raise_iterations(self):
        if run := self.run():
            self.patch_run({"spec": {"iterations": min(2, run["spec"]["iterations"] + 1)}})

    @rule(shards=st.sampled_from([1, 2, 3]))
    def edit_shards(self, shards):
        self.patch_run({"spec": {"generation": {"shards": shards}}})

    @rule(seconds=st.sampled_from([None, 1, 100]))
    def edit_deadline(self, seconds):
        self.patch_run({"spec": {"activeDeadlineSeconds": seconds}})

    @rule(policy=st.sampled_from(["Retain", "Delete"]))
    def edit_deletion_policy(self, policy):
        self.patch_run({"spec": {"deletionPolicy": policy}})

    @rule()
    def ask_for_retry(self):
        self.retries += 1
        self.patch_run({"metadata": {"annotations": {labels.RETRY: str(self.retries)}}})

    @precondition(lambda self: self.world.jobs())
    @rule(index=st.integers(0, 9), propagation=st.sampled_from(["Background", "Foreground"]))
    def delete_a_job(self, index, propagation):
        if job := self.pick(self.world.jobs(), index):
            self.world.delete_job(job, propagation)

    @precondition(lambda self: self.world.jobs())
    @rule(index=st.integers(0, 9))
    def edit_a_job(self, index):
        if job := self.pick(self.world.jobs(), index):
            edit = {"metadata": {"labels": {labels.ATTEMPT: None}}}
            self.server.patch("jobs", *KEY[:1], job["metadata"]["name"], edit)

    @rule(propagation=st.sampled_from(["Background", "Foreground"]))
    def delete_the_run(self, propagation):
        if self.run():
            self.server.delete(RUNS, *KEY, propagation)

    @precondition(lambda self: self.run() is None)
    @rule()
    def begin_again(self):
        self.create_run()

    @rule(quota=st.sampled_from([None, None, 0, 2]))
    def set_quota(self, quota):
        self.server.quota = quota

    @rule(seconds=st.sampled_from([1, 10, 200]))
    def wait(self, seconds):
        self.now += timedelta(seconds=seconds)

    # ---- what must come of it

    def teardown(self):
        """Once the world does no more harm, a run that is being deleted goes, and one that is not ends Complete."""
        if not hasattr(self, "operator"):
            return
        self.server.quota = None
        self.operator.reconciler.distrust()
        if (run := self.run()) and deleting(run):
            self.goes(run)
        if not self.run():
            self.create_run()
        self.patch_run({"spec": {"suspend": False, "activeDeadlineSeconds": None}})
        self.completes()
        run = self.run()
        self.server.delete(RUNS, *KEY, "Background")
        self.goes(run)

    def goes(self, run):
        uid = run["metadata"]["uid"]
        for _ in range(20):
            self.round()
            self.now += timedelta(seconds=60)
        assert not self.run() or self.run()["metadata"]["uid"] != uid
        assert not [owned for kind in ("jobs", "pods") for owned in self.server.all(kind) if stage(owned) != "cleanup"]
        for job in self.world.jobs():
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
TestControlling.settings = histories(100, 25)
