"""After a broken watch, a run is listed again, once. Nothing is listed without a cause."""

from __future__ import annotations

from typing import Any

from evolution_operator.controller.kube.apiserver import NotFoundError
from evolution_operator.controller.kube.client import Listing, RunKey
from evolution_operator.controller.seen.cache import Cache
from evolution_operator.controller.seen.relist import Relist
from evolution_operator.controller.seen.silence import Silence

from tests.support.cluster.objects import OWNER
from tests.unit.test_cache import job, run

KEY = RunKey(OWNER.namespace, OWNER.name)


class KubeClient:
    """Has no objects, and counts the lists."""

    def __init__(self) -> None:
        self.lists = 0
        self.run: dict[str, Any] | None = run(1)

    def read_run(self, key: RunKey) -> dict[str, Any]:
        if self.run is None:
            raise NotFoundError(key.name)
        return self.run

    def list_jobs(self, _key: RunKey) -> Listing:
        self.lists += 1
        return Listing((), 100)

    def list_pods(self, _key: RunKey) -> Listing:
        return Listing((), 100)


class Scenario:
    def __init__(self) -> None:
        self.client, self.cache, self.now = KubeClient(), Cache(), 0.0
        self.missed: list[int] = []
        self.relist = Relist(
            self.client,  # type: ignore[arg-type]
            self.cache,
            300.0,
            lambda: self.missed.append(1),
            clock=lambda: self.now,
        )
        self.cache.put_run(run(1))

    def ensure(self, after: float = 1.0) -> tuple[int, int]:
        """Jobs seen, and lists asked for so far."""
        self.now += after
        seen = self.relist.ensure(KEY, self.cache.seen(KEY))
        return len(seen.jobs), self.client.lists


def test_a_new_run_is_not_listed() -> None:
    assert Scenario().ensure(after=1000) == (0, 0)


def test_a_run_is_listed_once_after_a_watch_was_broken() -> None:
    scenario = Scenario()
    scenario.ensure()
    scenario.cache.put_job(job(2))
    assert scenario.ensure() == (1, 0)
    scenario.relist.request_all()
    assert scenario.ensure() == (0, 1)
    assert scenario.ensure() == (0, 1)


def test_a_new_run_is_listed_if_a_job_of_an_earlier_run_exists_and_the_watch_broke_before() -> None:
    scenario = Scenario()
    scenario.cache.put_job(job(2))
    scenario.now += 1
    scenario.relist.request_all()
    assert scenario.ensure() == (0, 1)
    assert scenario.ensure() == (0, 1)


def test_a_finished_run_is_not_listed() -> None:
    scenario = Scenario()
    scenario.ensure()
    scenario.cache.put_run(run(3) | {"status": {"phase": "Complete"}})
    scenario.relist.request_all()
    assert scenario.ensure(after=1000) == (0, 0)


def test_a_job_deleted_before_it_ended_is_a_cause_to_list() -> None:
    scenario = Scenario()
    scenario.ensure()
    scenario.cache.put_job(job(2))
    scenario.cache.drop_job(job(3))
    assert scenario.ensure() == (0, 1)
    assert scenario.ensure() == (0, 1)
    ended = job(4, uid="another")
    ended["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
    scenario.cache.drop_job(ended)
    assert scenario.ensure() == (0, 1)


def test_a_finished_run_that_is_being_deleted_is_listed_after_a_watch_was_broken() -> None:
    scenario = Scenario()
    scenario.ensure()
    scenario.cache.put_job(job(2, deleting=True))
    scenario.cache.put_run(run(3, deletionTimestamp="2026-01-01T00:00:00Z") | {"status": {"phase": "Complete"}})
    assert scenario.ensure() == (1, 0)
    scenario.relist.request_all()
    assert scenario.ensure() == (0, 1)


def test_a_change_that_a_silent_watch_has_not_delivered_is_read() -> None:
    scenario = Scenario()
    scenario.ensure()
    scenario.client.run = run(7) | {"spec": {"suspend": True}}
    assert scenario.ensure(after=200) == (0, 0)
    scenario.ensure(after=200)
    seen = scenario.cache.seen(KEY).run
    assert seen is not None
    assert (seen["spec"], len(scenario.missed)) == ({"suspend": True}, 1)
    scenario.ensure(after=400)
    assert len(scenario.missed) == 1


def test_a_deletion_that_a_silent_watch_has_not_delivered_is_noticed() -> None:
    scenario = Scenario()
    scenario.ensure()
    scenario.client.run = None
    scenario.ensure(after=400)
    assert (scenario.cache.seen(KEY).run, len(scenario.missed)) == (None, 1)


def test_the_silence_of_each_watch_is_measured() -> None:
    now = [0.0]
    silence = Silence(["jobs", "pods"], clock=lambda: now[0])
    now[0] = 5.0
    silence.heard("jobs")
    now[0] = 7.0
    assert silence.seconds() == {"jobs": 2.0, "pods": 7.0}
