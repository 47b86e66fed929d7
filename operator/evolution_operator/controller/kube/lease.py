"""Leader election by a Lease (coordination.k8s.io), with the protocol of client-go.

Clocks of replicas are never compared: a candidate measures, on its own monotonic clock, how long the Lease has not
changed. A leader stops writing before that time can be over, even if it cannot reach the API server.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from .apiserver import AlreadyExistsError, ApiServer, ClusterError, ConflictError, NotFoundError, Object

log = logging.getLogger(__name__)


class Election:
    """A candidate. Every write asks `leads` first.

    Args:
        server: an API server to which this candidate may write even if it does not lead.
        namespace, name: of the Lease.
        identity: of this replica.
        duration: seconds without renewal after which another replica may lead.
        call_timeout: seconds that a call may take: the last write may end this long after `leads` has become False.
        changed: called with whether this replica leads, whenever that changes.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        server: ApiServer,
        namespace: str,
        name: str,
        identity: str,
        duration: float,
        call_timeout: float,
        changed: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._metadata = {"name": name, "namespace": namespace}
        self.identity = f"{identity}_{uuid.uuid4().hex[:8]}"
        self._duration = duration
        self._valid_for = duration - call_timeout
        self._period = duration / 5
        self._changed = changed
        self._clock = clock
        self._until = float("-inf")
        self._led = False
        self._held: Object | None = None
        """The Lease as this replica last wrote it: unless another replica has taken it, renewal is one call."""
        self._seen: tuple[Any, float] = (None, 0.0)
        """The Lease's spec as last read, and when it was first read in that form."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)

    def start(self) -> None:
        """Start to take part in the election."""
        self._thread.start()

    def stop(self) -> None:
        """Release the Lease, so that another replica leads at once."""
        self._stop.set()
        self._thread.join(self._duration)
        if self.leads():
            self._until = float("-inf")
            try:
                self._give_up()
            except ClusterError as error:
                log.warning("could not release the Lease, another replica leads in %.0f s: %s", self._duration, error)

    def leads(self) -> bool:
        """Whether this replica leads now and may write."""
        return self._clock() < self._until

    def alive(self) -> bool:
        """Whether the election thread is running."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.campaign()
            except ClusterError as error:
                log.warning("election: %s", error)
            if self.leads() != self._led:
                self._led = not self._led
                log.info("%s", "this replica leads" if self._led else "this replica stands by")
                self._changed(self._led)
            self._stop.wait(self._period)

    def campaign(self) -> None:
        """Renew the Lease, or take it if it is free. Raises ClusterError."""
        started = self._clock()
        held, self._held = self._held, None
        try:
            lease = held or self._server.call("GET", f"{self._path}/{self._metadata['name']}")
            if not self._may_take(lease["spec"], started):
                return
            self._held = self._put(lease)
        except NotFoundError:
            self._held = self._create()
        except ConflictError:
            return  # another candidate was faster
        if self._held is None:
            return
        self._until = started + self._valid_for

    def _may_take(self, spec: Object, now: float) -> bool:
        if spec != self._seen[0]:
            self._seen = (spec, now)
        holder = spec.get("holderIdentity")
        return not holder or holder == self.identity or now - self._seen[1] > self._duration

    def _put(self, lease: Object) -> Object:
        return self._server.call(
            "PUT", f"{self._path}/{self._metadata['name']}", self._lease(lease["spec"], lease["metadata"])
        )

    def _lease(self, before: Object, metadata: Object) -> Object:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        same = before.get("holderIdentity") == self.identity
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": max(1, round(self._duration)),
                "acquireTime": before.get("acquireTime") if same else now,
                "renewTime": now,
                "leaseTransitions": (before.get("leaseTransitions") or 0) + (0 if same or not before else 1),
            },
        }

    def _create(self) -> Object | None:
        try:
            return self._server.call("POST", self._path, self._lease({}, self._metadata))
        except AlreadyExistsError:
            return None

    def _give_up(self) -> None:
        lease = self._server.call("GET", f"{self._path}/{self._metadata['name']}")
        if lease["spec"].get("holderIdentity") == self.identity:
            lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
            self._server.call("PUT", f"{self._path}/{self._metadata['name']}", lease)
