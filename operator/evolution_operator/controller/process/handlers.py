"""kopf's handlers: each passes a watch event to the cache and the work queue. None decides anything.

All are low-level handlers (index, event), so kopf keeps no state in the resources, patches none and sets no finalizer.
Index functions run first, and event handlers only when every kind has been listed, so the cache is complete at the first
nudge.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import kopf

from ...api.spec import GROUP, PLURAL, VERSION
from .. import labels
from ..kube.client import RunKey
from ..seen.views import job_view
from ..settings import read_settings
from .service import Service

RUNS = (GROUP, VERSION, PLURAL)
JOBS = ("batch", "v1", "jobs")
PODS = ("", "v1", "pods")
OURS = {labels.RUN: kopf.PRESENT}
LONGEST_PAUSE = 5.0


class Pauses:
    """Seconds between tries at an API server that does not answer. Endless, because kopf gives up after the last."""

    def __iter__(self) -> Iterator[float]:
        """Growing pauses, up to `LONGEST_PAUSE`."""
        yield from (0.2, 0.5, 1.0, 2.0)
        while True:
            yield LONGEST_PAUSE


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Configure kopf and start the service."""
    own = read_settings()
    # kopf logs each handler that has run.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.networking.error_backoffs = Pauses()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = own.request_timeout_seconds
    # A load balancer may forget a connection without closing it: nothing arrives any more, and no error either.
    settings.watching.inactivity_timeout = own.watch_silence_seconds
    settings.watching.label_selectors[JOBS] = labels.RUN
    settings.watching.label_selectors[PODS] = labels.RUN
    settings.process.ultimate_exiting_timeout = 30
    memo.service = Service(own)
    await memo.service.start()


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Stop the service."""
    await memo.service.stop()


@kopf.index(*RUNS)
async def cache_run(body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    """Put a run into the cache."""
    memo.service.cache.put_run(dict(body))


@kopf.index(*JOBS, labels=OURS)
async def cache_job(body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    """Put a Job into the cache."""
    memo.service.cache.put_job(body)


@kopf.index(*PODS, labels=OURS)
async def cache_pod(body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    """Put a Pod into the cache."""
    memo.service.cache.put_pod(body)


@kopf.on.event(*RUNS)
async def nudge_by_run(event: kopf.RawEvent, body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    """A run was created, changed or deleted."""
    memo.service.silence.heard(RUNS[-1])
    key = RunKey(body["metadata"]["namespace"], body["metadata"]["name"])
    if event["type"] == "DELETED":
        memo.service.cache.drop_run(key, body["metadata"]["uid"])
    memo.service.nudge(key, _listed_again(event, memo))


@kopf.on.event(*JOBS, labels=OURS)
async def nudge_by_job(event: kopf.RawEvent, body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    """A Job of a run was created, changed or deleted."""
    memo.service.silence.heard(JOBS[-1])
    if event["type"] == "DELETED":
        memo.service.cache.drop_job(body)
    # The next stage waits for the end of this one.
    memo.service.nudge(_run_of(body), _listed_again(event, memo), decisive=job_view(body).ended)


@kopf.on.event(*PODS, labels=OURS)
async def nudge_by_pod(event: kopf.RawEvent, body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    """A Pod of a run was created, changed or deleted."""
    memo.service.silence.heard(PODS[-1])
    if event["type"] == "DELETED":
        memo.service.cache.drop_pod(body)
    memo.service.nudge(_run_of(body), _listed_again(event, memo))


def _run_of(body: kopf.Body) -> RunKey:
    return RunKey(body["metadata"]["namespace"], body["metadata"]["labels"][labels.RUN])


def _listed_again(event: kopf.RawEvent, memo: kopf.Memo) -> bool:
    """Whether a known object was delivered by a list, which means that the watch before it was broken."""
    known = memo.get("known", False)
    memo.known = True
    return known and event["type"] is None
