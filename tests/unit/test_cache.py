"""The cache keeps every object that exists, drops deleted ones, and never goes back to an older version."""

from __future__ import annotations

import copy
from typing import Any

from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.controller import labels
from evolution_operator.controller.kube.client import Listing, RunKey
from evolution_operator.controller.seen.cache import Cache

from tests.support.cluster.objects import OWNER, job_object, pod_object, stage_start
from tests.support.run_document import minimal_spec

KEY = RunKey(OWNER.namespace, OWNER.name)
SPEC = EvolutionRunSpec.model_validate(minimal_spec())


def job(version: int, uid: str = "job", **settings: Any) -> dict[str, Any]:
    return job_object(SPEC, stage_start(), uid=uid, version=version, **settings)


def run(version: int, uid: str = "run-uid", **metadata: Any) -> dict[str, Any]:
    names = {"namespace": KEY.namespace, "name": KEY.name, "uid": uid, "resourceVersion": str(version)}
    return {"metadata": names | metadata}


def listing(version: int, *items: dict[str, Any]) -> Listing:
    return Listing(items, version)


def versions(cache: Cache) -> list[int]:
    return [view.meta.version for view in cache.seen(KEY).jobs]


def test_a_late_event_does_not_undo_what_was_written() -> None:
    cache = Cache()
    cache.put_job(job(7, suspend=True))
    cache.put_job(job(5, suspend=False))
    (view,) = cache.seen(KEY).jobs
    assert (view.meta.version, view.suspended) == (7, True)
    cache.put_run(run(9))
    cache.put_run(run(8))
    seen = cache.seen(KEY).run
    assert seen is not None
    assert seen["metadata"]["resourceVersion"] == "9"


def test_a_deleted_job_does_not_come_back_with_a_late_list() -> None:
    cache = Cache()
    cache.put_job(job(5))
    cache.drop_job(job(8))
    cache.replace_jobs(KEY, listing(6, job(5)))
    cache.put_job(job(7))
    assert versions(cache) == []


def test_a_job_that_lost_its_label_comes_back_with_it() -> None:
    cache = Cache()
    cache.put_job(job(5))
    cache.drop_job(job(8))  # a watch by label reports a lost label as a deletion
    cache.put_job(job(9))
    assert versions(cache) == [9]


def test_a_listing_repairs_what_a_broken_watch_has_missed() -> None:
    cache = Cache()
    cache.put_job(job(5, uid="ghost"))
    cache.put_job(job(6, uid="kept"))
    cache.put_job(job(12, uid="younger"))
    cache.replace_jobs(KEY, listing(10, job(6, uid="kept")))
    assert {view.meta.uid for view in cache.seen(KEY).jobs} == {"kept", "younger"}


def test_the_last_state_of_a_deleted_pod_is_kept_as_long_as_its_job() -> None:
    cache = Cache()
    body = job(5)
    cache.put_job(body)
    cache.put_pod(pod_object(body, "Running", version=6))
    cache.put_pod(pod_object(body, "Failed", version=7, code=65, message="why"))
    cache.drop_pod(pod_object(body, "Failed", version=8, code=65, message="why"))
    (pod,) = cache.seen(KEY).pods
    assert (pod.gone, pod.alive, pod.exit_code, pod.message) == (True, False, 65, "why")
    cache.drop_job(job(9))
    assert cache.seen(KEY).pods == ()


def test_a_pod_that_outlives_its_job_is_seen_until_it_is_gone() -> None:
    cache = Cache()
    body = job(5)
    cache.put_job(body)
    cache.put_pod(pod_object(body, "Running", version=6))
    cache.drop_job(job(7))
    (pod,) = cache.seen(KEY).pods
    assert pod.alive
    cache.drop_pod(pod_object(body, "Failed", version=9))
    assert cache.seen(KEY).pods == ()


def test_a_listing_marks_pods_that_are_not_in_it_as_gone() -> None:
    cache = Cache()
    body = job(5)
    cache.put_job(body)
    cache.put_pod(pod_object(body, "Running", version=6))
    cache.replace_pods(KEY, listing(10))
    (pod,) = cache.seen(KEY).pods
    assert (pod.gone, pod.alive) == (True, False)


def test_a_run_created_again_under_the_same_name_is_another_run() -> None:
    cache = Cache()
    cache.put_run(run(5))
    cache.put_run(run(9, uid="second"))
    cache.drop_run(KEY, "run-uid")
    seen = cache.seen(KEY).run
    assert seen is not None
    assert seen["metadata"]["uid"] == "second"
    cache.drop_run(KEY, "second")
    assert cache.seen(KEY).run is None
    assert cache.runs() == {}


def test_fields_that_decide_nothing_are_dropped() -> None:
    cache = Cache()
    cache.put_run(run(5, managedFields=[{"manager": "kubectl"}]))
    seen = cache.seen(KEY).run
    assert seen is not None
    assert "managedFields" not in seen["metadata"]
    assert labels.SPEC not in str(cache.put_job(copy.deepcopy(job(5))))
