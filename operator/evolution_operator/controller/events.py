"""Events about a run, for `kubectl describe`. An event is news, not state: one that cannot be sent is logged."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from ..api.spec import API_VERSION, KIND
from ..planner.actions import Event
from . import labels
from .apiserver import AlreadyExistsError, ClusterError
from .cluster import Cluster

log = logging.getLogger(__name__)

MESSAGE_LIMIT = 1024
"""Characters that the API server takes."""


def send_events(cluster: Cluster, run: Mapping[str, Any], events: Iterable[Event], now: datetime) -> None:
    """Tell events about this version of the run; those that were told before are not told again."""
    name = f"{run['metadata']['namespace']}/{run['metadata']['name']}"
    for order, event in enumerate(events):
        try:
            cluster.create_event(build_event(run, event, order, now))
        except AlreadyExistsError:
            continue
        except ClusterError as error:
            log.warning("event %s was not sent: %s", event.reason, error, extra={"run": name})
        log.info("%s: %s", event.reason, event.message, extra={"run": name})


def build_event(run: Mapping[str, Any], event: Event, order: int, now: datetime) -> dict[str, Any]:
    """A core/v1 Event. Its name follows from the run's version and the event, so that sending it twice is harmless."""
    metadata = run["metadata"]
    text = "/".join((metadata["uid"], metadata["resourceVersion"], str(order), event.reason, event.message))
    moment = now.isoformat().replace("+00:00", "Z")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "namespace": metadata["namespace"],
            "name": f"{metadata['name']}.{hashlib.sha256(text.encode()).hexdigest()[:16]}",
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message if len(event.message) <= MESSAGE_LIMIT else f"{event.message[: MESSAGE_LIMIT - 1]}…",
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
        "source": {"component": labels.OPERATOR},
        "reportingComponent": labels.OPERATOR,
        "reportingInstance": "",
    }
