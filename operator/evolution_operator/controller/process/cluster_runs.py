"""The source of the operator's live page: the cache, which every replica has, whether or not it leads."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from ...api.status import RunStatus
from ...live.view import Subject, newest_first, run_document, run_summary
from ..kube.client import RunKey
from ..seen.cache import Cache
from ..seen.told import EventReader


class ClusterRuns:
    """Runs as the cache has them. Nothing is read from the API server but the events of a run that someone looks at."""

    single = False

    def __init__(self, cache: Cache, events: EventReader) -> None:
        self._cache = cache
        self._events = events

    def runs(self) -> list[dict[str, Any]]:
        """All runs, unfinished ones first."""
        runs = self._cache.runs().items()
        return newest_first(run_summary(key.namespace, key.name, run.get("status") or {}) for key, run in runs)

    def run(self, namespace: str, name: str) -> dict[str, Any] | None:
        """One run, without what its stages have said themselves."""
        key = RunKey(namespace, name)
        run = self._cache.runs().get(key)
        if run is None:
            return None
        try:
            status = RunStatus.model_validate(run.get("status") or {})
        except ValidationError:
            # Another version of the operator has written it, and this replica will be replaced soon.
            status = RunStatus()
        metadata = run["metadata"]
        events = self._events.events(key, metadata["uid"], metadata["resourceVersion"])
        subject = Subject.of_document(namespace, name, run.get("spec") or {})
        return run_document(subject, status, events, stage_words=False)
