"""Random histories of the controller with a fake API server and fake controllers; the rest is real.

Jobs fail, vanish and are edited, watches lag, break and skip, calls fail before and after they take effect, the operator
is killed between any two of them, and a user suspends, extends, retries, deletes and recreates the run.
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
from tests.support.cluster.fake_controllers import World, deleting, ended, owner, spec_of, stage
from tests.support.cluster.operator_in_process import KEY, KINDS, RUNS, Killed, Operator, Reaction
from tests.support.invariants import RunHistory, check_inputs, check_rivals, edits, histories
from tests.support.run_document import minimal_spec, run_document

SPEC = minimal_spec(iterations=1, retry={"maxAttempts": 2, "backoffSeconds": 10})
TROUBLE = st.tuples(
    st.integers(0, 5), st.sampled_from(["before", "after"]), st.sampled_from(["fails", "is_killed", "conflicts"])
)
REACTION = st.builds(
    Reaction,
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
        """A run that has made some progress already."""
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.server = ApiServer(self.stamp, self.watched, self.before)
        self.world = World(self.server, self.stamp)
        self.spec = SPEC | {"generation": {"shards": shards}, "deletionPolicy": policy}
        self.pending = []
        self.trouble = None
        self.histories = {}
        self.published = set()
        """Keys that were published at some time. The operator may not know yet that one was withdrawn."""
        self.retries = 0
        self.create_run()
        self.restart()
        self.work(rounds)

    def stamp(self):
        return self.now.isoformat().replace("+00:00", "Z")

    # ---- invariants of every change

    def watched(self, change):
        if change.kind in KINDS:
            self.pending.append(change)
        if change.type == "DELETED":
            return
        if change.kind == RUNS and change.body.get("status"):
            history = self.histories.setdefault(change.body["metadata"]["uid"], RunHistory(joined))
            status = RunStatus.model_validate(change.body["status"])
            if status != history.status:
                history.write(status)
            for lost in (s for s in status.stages if s.reason in ("ReportLost", "PodLost")):
                assert not self.world.messages(lost.job), f"the report of {lost.job} exists, and was not looked up"
        elif change.kind == "events":
            body = change.body
            if body["reason"] != "CleanupFailed":
                event = Event(body["type"], body["reason"], body["message"])
                self.histories[body["involvedObject"]["uid"]].record(event)
        elif change.kind == "jobs" and change.type == "ADDED":
            self.check_job(change.body)

    def check_job(self, job):
        if stage(job) == labels.CLEANUP:
            assert not list(self.world.could_publish()), "artifacts are deleted while a stage may write"
            return
        spec = StageSpec.model_validate(spec_of(job["spec"]["template"]))
        self.published |= self.world.results.store.keys()
        check_inputs(spec, self.published, job["metadata"]["name"])
        self.histories.setdefault(owner(job), RunHistory(joined)).start(
            spec, int(job["metadata"]["labels"][labels.ATTEMPT])
        )
        check_rivals(self.world.could_publish())

    # ---- the operator

    def before(self, method, kind, name, body):
        """The trouble comes with one of the next calls: before it is made, or once it has taken effect."""
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

    def conflicts(self):
        self.patch_run({"metadata": {"annotations": {"another/writer": self.run() and self.run()["metadata"]["uid"]}}})
        self.patch_run({"metadata": {"annotations": {"another/writer": None}}})

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

    def deliver_all(self, kinds=KINDS):
        for event in self.pending:
            if event.kind in kinds:
                self.operator.apply(event)
        self.pending = [event for event in self.pending if event.kind not in kinds]

    def react(self, reaction):
        """Some watches deliver their events, the operator makes a pass, and the cluster may do its part."""
        self.deliver_all(reaction.seen)
        self.trouble = reaction.trouble
        if reaction.passes:
            self.reconcile()
        if reaction.works:
            self.controllers_work()
        if reaction.starts:
            for pod in self.world.pods("Pending"):
                self.world.run_pod(pod)

    # ---- watches and time

    @rule(seconds=st.sampled_from([0, 10, 200]), reaction=REACTION)
    def wait(self, seconds, reaction):
        self.now += timedelta(seconds=seconds)
        self.react(reaction)

    @rule(index=st.integers(0, 30), skips=st.booleans(), reaction=REACTION)
    def deliver(self, index, skips, reaction):
        """Deliver the next event of one object; of a burst, perhaps only the last."""
        if event := self.pick(self.pending, index):
            same = [n for n in self.pending if n.body["metadata"]["uid"] == event.body["metadata"]["uid"]]
            delivered = same if skips else same[:1]
            self.pending = [n for n in self.pending if n not in delivered]
            self.operator.apply(delivered[-1])
        self.react(reaction)

    @rule(kind=st.sampled_from(KINDS), reaction=REACTION)
    def break_the_watch(self, kind, reaction):
        """Pending events are lost. A list follows, and later the operator distrusts its cache."""
        self.pending = [event for event in self.pending if event.kind != kind]
        self.operator.list(kind)
        self.react(reaction)
        self.operator.reconciler.relist_all()

    @rule(reaction=REACTION)
    def restart_the_operator(self, reaction):
        self.restart()
        self.react(reaction)

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
        reaction=REACTION,
    )
    def a_process_ends(self, index, how, reaction):
        if pod := self.pick(self.world.pods("Running"), index):
            if isinstance(how, int):
                self.world.end(pod, how, {"reason": "Reported", "message": "a message"} if how != 137 else {})
            else:
                # An evaluation does not run again if its report is lost: its figures are in the store, if not in the status.
                self.world.finish(pod, silently=how == "silently" and not stage(pod).startswith("evaluate"))
        self.react(reaction)

    @rule(
        index=st.integers(0, 5),
        how=st.sampled_from(["deleted", "drained", "stopped", "killed", "lost", "unplaced"]),
        reaction=REACTION,
    )
    def a_pod_is_disrupted(self, index, how, reaction):
        if pod := self.pick(self.world.pods(), index):
            if how in ("deleted", "drained"):
                self.world.delete_pod(pod, disrupted=how == "drained")
            elif how == "lost":
                self.server.remove("pods", pod)
            elif pod["status"]["phase"] == "Pending":
                self.world.find_no_node(pod)
            elif deleting(pod) and how != "unplaced":
                self.world.stop(pod) if how == "stopped" else self.world.end(pod, 137, {})
        self.react(reaction)

    @rule(index=st.integers(0, 20), moves=st.booleans(), reaction=REACTION)
    def a_result_is_lost(self, index, moves, reaction):
        self.published |= self.world.results.store.keys()
        self.world.results.edition += moves
        if key := self.pick(sorted(self.world.results.store), index):
            self.world.results.withdraw(key)
        self.react(reaction)

    @rule(rounds=st.integers(1, 3))
    def work(self, rounds):
        """No faults for a while, so that the run makes progress. Then the next stage starts."""
        self.remove_obstacles()
        for _ in range(rounds):
            self.round()
        self.react(Reaction())

    def remove_obstacles(self):
        """Undo whatever a user or administrator did to hold the run up."""
        if not self.run():
            self.create_run()
        self.server.quota = None
        self.patch_run({"spec": {"suspend": False, "activeDeadlineSeconds": None}})
        if self.phase() == "Failed":
            self.ask_for_retry()

    def round(self):
        self.react(Reaction())
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
        document = run_document(self.spec, name=KEY.name, namespace=KEY.namespace)
        self.server.create(RUNS, KEY.namespace, document)

    @rule(edit=st.sampled_from(edits(deadline=300)), reaction=REACTION)
    def the_user_edits(self, edit, reaction):
        self.patch_run({"spec": edit})
        self.react(reaction)

    @rule(reaction=REACTION)
    def the_user_asks_for_a_retry(self, reaction):
        self.ask_for_retry()
        self.react(reaction)

    def ask_for_retry(self):
        self.retries += 1
        self.patch_run({"metadata": {"annotations": {RETRY_ANNOTATION: str(self.retries)}}})

    @rule(index=st.integers(0, 9), how=st.sampled_from(["Background", "Foreground", "edit"]), reaction=REACTION)
    def the_user_changes_a_job(self, index, how, reaction):
        jobs = self.world.jobs()
        if job := self.pick([job for job in jobs if not ended(job)] or jobs, index):
            if how == "edit":
                edit = {"metadata": {"labels": {labels.ATTEMPT: None}}}
                self.server.patch("jobs", KEY.namespace, job["metadata"]["name"], edit)
            else:
                self.world.delete_job(job, how)
        self.react(reaction)

    @rule(propagation=st.sampled_from(["Background", "Foreground"]), reaction=REACTION)
    def the_user_deletes_or_recreates_the_run(self, propagation, reaction):
        if self.run():
            self.server.delete(RUNS, *KEY, propagation)
        else:
            self.create_run()
        self.react(reaction)

    @rule(quota=st.sampled_from([None, 0, 2]), reaction=REACTION)
    def an_administrator_sets_a_quota(self, quota, reaction):
        self.server.quota = quota
        self.react(reaction)

    # ---- the end

    def teardown(self):
        """Without further faults, a run that is being deleted disappears, and any other ends Complete."""
        if not hasattr(self, "operator"):
            return
        self.server.quota = None
        self.operator.reconciler.relist_all()
        if (run := self.run()) and deleting(run):
            self.check_deletion(run)
        self.remove_obstacles()
        self.check_completion()
        run = self.run()
        self.server.delete(RUNS, *KEY, "Background")
        self.check_deletion(run)

    def check_deletion(self, run):
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
            # The cleanup Job ends, and is deleted after its time to live.
            assert stage(job) == labels.CLEANUP
            assert ended(job)
            self.server.remove("jobs", job)
        self.world.collect_garbage()

    def check_completion(self):
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
        self.check_fixed_point()
        self.restart()
        self.check_fixed_point()

    def phase(self):
        run = self.run()
        status = run.get("status") or {}
        return status.get("phase") if status.get("observedGeneration") == run["metadata"]["generation"] else None

    def check_fixed_point(self):
        self.round()
        before = self.server.writes
        for _ in range(2):
            self.deliver_all()
            self.now += timedelta(seconds=60)
            assert self.operator.reconciler.reconcile(run_key(self.run())) is None
        assert self.server.writes == before, "a finished run is a fixed point"
        assert not list(self.world.could_publish())


TestControlling = Controlling.TestCase
TestControlling.settings = histories(200, 20)
