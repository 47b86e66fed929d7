"""Every change of a namespace's runs, Jobs, Pods and events, in order."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from evolution_operator.api.spec import GROUP, PLURAL, VERSION
from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

from tests.api.harness import wait_for
from tests.support.cluster.fake_api_server import WatchEvent

WATCH_SECONDS = 2


class Recorder:
    """Watches that start while the namespace is empty, and miss nothing while the API server is up.

    All kinds are in one etcd, so their resourceVersions are in one order.
    """

    def __init__(self, kube: client.ApiClient, namespace: str) -> None:
        core, custom = client.CoreV1Api(kube), client.CustomObjectsApi(kube)
        self._lists: dict[str, Callable[..., Any]] = {
            "evolutionruns": partial(custom.list_namespaced_custom_object, GROUP, VERSION, namespace, PLURAL),
            "jobs": partial(client.BatchV1Api(kube).list_namespaced_job, namespace),
            "pods": partial(core.list_namespaced_pod, namespace),
            "events": partial(core.list_namespaced_event, namespace),
        }
        self._kube = kube
        self._events: list[tuple[int, WatchEvent]] = []
        self._stopped = False
        self._threads = [threading.Thread(target=self._watch, args=(kind,), daemon=True) for kind in self._lists]
        for thread in self._threads:
            thread.start()

    def items(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        answer = self._lists[kind]()
        document = answer if isinstance(answer, dict) else self._kube.sanitize_for_serialization(answer)
        found: list[dict[str, Any]] = document["items"]
        return found

    def stop(self) -> list[tuple[int, WatchEvent]]:
        """All watch events with their resourceVersions, once every existing object has been seen."""
        there = {(kind, _version(item)) for kind in self._lists for item in self.items(kind)}
        wait_for(
            lambda: there - {(event.kind, version) for version, event in self._events},
            lambda missing: not missing,
            "watches have reported every object",
        )
        self._stopped = True
        for thread in self._threads:
            thread.join()
        return sorted(self._events, key=lambda each: each[0])

    def _watch(self, kind: str) -> None:
        seen = self._lists[kind](limit=1)
        version = seen["metadata"]["resourceVersion"] if isinstance(seen, dict) else seen.metadata.resource_version
        while not self._stopped:
            with contextlib.suppress(ApiException, OSError):
                for event in self._stream(kind, version):
                    body = event["raw_object"]
                    version = str(_version(body))
                    self._events.append((_version(body), WatchEvent(kind, event["type"], body)))

    def _stream(self, kind: str, version: str) -> Iterator[dict[str, Any]]:
        listing = self._lists[kind]
        # The client reads a function's docstring to find the type of what it lists.
        named = partial(listing)
        named.__doc__ = listing.func.__doc__  # type: ignore[attr-defined]
        yield from watch.Watch().stream(named, resource_version=version, timeout_seconds=WATCH_SECONDS)


def _version(body: dict[str, Any]) -> int:
    return int(body["metadata"]["resourceVersion"])
