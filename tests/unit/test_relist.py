"""What a broken watch may have lost is listed anew, once, and nothing is listed without cause."""

from __future__ import annotations

from evolution_operator.controller.kube.client import Listing, RunKey
from evolution_operator.controller.seen.cache import Cache
from evolution_operator.controller.seen.relist import Relist

from tests.support.cluster.objects import OWNER
from tests.unit.test_cache import job, run

KEY = RunKey(OWNER.namespace, OWNER.name)


class KubeClient:
    """Has nothing, and counts how often it is asked."""

    def __init__(self) -> None:
        self.lists = 0

    def list_jobs(self, _key: RunKey) -> Listing:
        self.lists += 1
        return Listing((), 100)

    def list_pods(self, _key: RunKey) -> Listing:
        return Listing((), 100)


class Watch:
    def __init__(self) -> None:
        self.cluster, self.cache, self.now = KubeClient(), Cache(), 0.0
        self.relist = Relist(self.cluster, self.cache, 300.0, clock=lambda: self.now)  # type: ignore[arg-type]
        self.cache.put_run(run(1))

    def look(self, after: float = 1.0) -> tuple[int, int]:
        """Jobs seen, and lists asked for so far."""
        self.now += after
        seen = self.relist.ensure(KEY, self.cache.seen(KEY))
        return len(seen.jobs), self.cluster.lists


def test_a_new_run_is_not_listed() -> None:
    assert Watch().look(after=1000) == (0, 0)


def test_a_run_is_listed_once_after_a_watch_was_broken() -> None:
    watch = Watch()
    watch.look()
    watch.cache.put_job(job(2))
    assert watch.look() == (1, 0)
    watch.relist.distrust()
    assert watch.look() == (0, 1)
    assert watch.look() == (0, 1)


def test_what_an_earlier_run_of_the_name_has_left_is_looked_for_though_the_watch_broke_before_the_run_began() -> None:
    watch = Watch()
    watch.cache.put_job(job(2))
    watch.now += 1
    watch.relist.distrust()
    assert watch.look() == (0, 1)
    assert watch.look() == (0, 1)


def test_a_finished_run_is_not_listed() -> None:
    watch = Watch()
    watch.look()
    watch.cache.put_run(run(3) | {"status": {"phase": "Complete"}})
    watch.relist.distrust()
    assert watch.look(after=1000) == (0, 0)


def test_a_job_that_went_before_it_ended_is_a_cause() -> None:
    watch = Watch()
    watch.look()
    watch.cache.put_job(job(2))
    watch.cache.drop_job(job(3))
    assert watch.look() == (0, 1)
    assert watch.look() == (0, 1)
    ended = job(4, uid="another")
    ended["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
    watch.cache.drop_job(ended)
    assert watch.look() == (0, 1)


def test_a_finished_run_that_is_being_deleted_is_listed_after_a_watch_was_broken() -> None:
    watch = Watch()
    watch.look()
    watch.cache.put_job(job(2, deleting=True))
    watch.cache.put_run(run(3, deletionTimestamp="2026-01-01T00:00:00Z") | {"status": {"phase": "Complete"}})
    assert watch.look() == (1, 0)
    watch.relist.distrust()
    assert watch.look() == (0, 1)
