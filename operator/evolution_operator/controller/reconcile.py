"""One pass over one run: observe, plan, execute, write the status once, then record events. Level-triggered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from evolution_jobs.contract.stage import RunRef
from pydantic import ValidationError

from ..api.spec import RETRY_ANNOTATION, EvolutionRunSpec
from ..api.status import RunStatus
from ..api.validation import faults
from ..planner.actions import Plan
from ..planner.observed import Attempt, Observed, Run
from ..planner.plan import plan
from .deletion import Deletion
from .events import RecordEvents
from .executor import Executor
from .jobs.pods import template_digests
from .kube.apiserver import ConflictError, NotFoundError, UnreachableError
from .kube.client import KubeClient, RunKey
from .metrics import Metrics
from .seen.attempts import is_attempt, observe
from .seen.cache import Cache, Seen
from .seen.probe import Probe
from .seen.relist import FINISHED, Relist
from .settings import Settings
from .status_writer import StatusWriter

log = logging.getLogger(__name__)

Object = Mapping[str, Any]


@dataclass(frozen=True)
class _Spec:
    """A run's spec."""

    version: tuple[str, int]
    """Uid and generation."""
    read: EvolutionRunSpec | None
    invalid: str | None
    """Why it cannot be read; None if it can."""
    templates: Mapping[str, str]
    """Digest of the Pod template that the spec gives now, by kind of stage."""


class Reconciler:
    """Brings each run closer to what its spec asks for. One thread at a time works on one run."""

    def __init__(
        self,
        client: KubeClient,
        cache: Cache,
        settings: Settings,
        metrics: Metrics,
        record: RecordEvents,
        clock: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._cache = cache
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._executor = Executor(client, cache, settings)
        self._relist = Relist(client, cache, settings.resync_interval_seconds, metrics.watch_missed.inc)
        self._deletion = Deletion(client, cache, self._executor, self._relist, settings, record)
        self._writer = StatusWriter(client, cache, metrics, record)
        self._probe = Probe(client, settings.progress_interval_seconds)
        self._specs: dict[RunKey, _Spec] = {}

    def relist_all(self) -> None:
        """A watch was broken and may have missed changes: list each unfinished run again."""
        self._relist.request_all()

    def reconcile(self, key: RunKey) -> float | None:
        """One pass. Returns the seconds until the next one is wanted even if nothing happens. Raises ClusterError."""
        seen = self._cache.seen(key)
        if seen.run is None:
            self._forget(key)
            return None
        with self._metrics.passes.time():
            try:
                seen = self._relist.ensure(key, seen)
                if seen.run is None:
                    return 0.0
                spec = self._spec(key, seen.run)
                if seen.run["metadata"].get("deletionTimestamp"):
                    return self._deletion.proceed(key, seen, spec.read, self._clock())
                run = self._deletion.guard(key, seen.run, spec.read)
                return self._pass(key, replace(seen, run=run), spec)
            except (ConflictError, NotFoundError):
                # Another client changed the run first: read it again and start over.
                return self._read_again(key, seen)
            except UnreachableError:
                self._relist.request(key)
                raise

    def _read_again(self, key: RunKey, seen: Seen) -> float | None:
        try:
            self._cache.put_run(self._client.read_run(key))
        except NotFoundError:
            if seen.run is not None:
                self._cache.drop_run(key, seen.run["metadata"]["uid"])
        return 0.0

    def _pass(self, key: RunKey, seen: Seen, spec: _Spec) -> float | None:
        body = seen.run
        assert body is not None, "the run exists"
        now = self._clock()
        owner = RunRef(namespace=key.namespace, name=key.name, uid=body["metadata"]["uid"])
        run = _run(owner, body, spec.read)
        attempts = self._attempts(key, owner, seen, spec)
        if any(attempt.outdated for attempt in attempts):
            # One of its Pods may have started without its watch event having arrived yet.
            attempts = self._attempts(key, owner, self._relist.list(key), spec)
        observed = Observed(attempts, previous=_previous(key, body), invalid=spec.invalid)
        self._writer.catch_up(key, body, observed.previous, now)
        decided = plan(run, observed, now)
        outcome = self._executor.execute(owner, run.spec, decided.actions)
        if outcome.begun or outcome.held:
            # Planning again with the result of the actions puts the end of one stage and the start of the next into
            # a single status write.
            decided = plan(run, replace(observed, attempts=observed.attempts + outcome.begun + outcome.held), now)
        self._writer.write(key, body, observed.previous, decided, now)
        if decided.expired:
            log.info("ttlSecondsAfterFinished has passed", extra={"run": f"{key.namespace}/{key.name}"})
            self._client.delete_run(key, owner.uid)
            return None
        # Last, because it may take a while and only the next pass uses the answer.
        seen = self._cache.seen(key)
        asked = self._probe.ask(key, [job for job in seen.jobs if is_attempt(owner, job)])
        return self._again(decided, now, asked, bool(outcome.held))

    def _attempts(self, key: RunKey, owner: RunRef, seen: Seen, spec: _Spec) -> tuple[Attempt, ...]:
        progress, notes = self._probe.progress(key, seen.jobs), self._probe.notes(key)
        return observe(owner, seen.jobs, progress, notes, spec.templates)

    def _again(self, decided: Plan, now: datetime, probe_again: float | None, held: bool) -> float | None:
        waits = [probe_again] if probe_again is not None else []
        if decided.wake_at is not None:
            waits.append(max(0.0, (decided.wake_at - now).total_seconds()))
        if held:
            waits.append(self._settings.held_retry_seconds)
        if decided.status.phase not in FINISHED:
            waits.append(self._settings.resync_interval_seconds)
        return min(waits, default=None)

    def _spec(self, key: RunKey, body: Object) -> _Spec:
        """The run's spec, validated once a generation."""
        version = (body["metadata"]["uid"], body["metadata"].get("generation", 0))
        known = self._specs.get(key)
        if known is None or known.version != version:
            read, invalid = _read_spec(body)
            templates = template_digests(read, self._settings) if read else {}
            known = self._specs[key] = _Spec(version, read, invalid, templates)
        return known

    def _forget(self, key: RunKey) -> None:
        self._specs.pop(key, None)
        self._relist.forget(key)
        self._probe.forget(key)
        self._writer.forget(key)


def _run(owner: RunRef, body: Object, spec: EvolutionRunSpec | None) -> Run:
    metadata = body["metadata"]
    return Run(
        ref=owner,
        # The planner does not use a spec that cannot be read: it only reports it in the status.
        spec=spec or EvolutionRunSpec.model_construct(),  # type: ignore[call-arg]
        generation=metadata.get("generation"),
        attempt_prefix=owner.uid,
        pins={"run": owner.uid},
        retry=(metadata.get("annotations") or {}).get(RETRY_ANNOTATION),
    )


def _read_spec(body: Object) -> tuple[EvolutionRunSpec | None, str | None]:
    try:
        return EvolutionRunSpec.model_validate(body.get("spec")), None
    except ValidationError as error:
        document = {name: body[name] for name in ("apiVersion", "kind", "metadata", "spec") if name in body}
        found = [str(fault) for fault in faults(document)]
        return None, "; ".join(found) or f"spec: {error}"


def _previous(key: RunKey, body: Object) -> RunStatus | None:
    if not body.get("status"):
        return None
    try:
        return RunStatus.stored(body["status"])
    except ValidationError as error:
        # Another version or a user has written it. The Jobs say enough to derive a new one.
        log.warning("the status cannot be read and is derived again: %s", error, extra={"run": "/".join(key)})
        return None
