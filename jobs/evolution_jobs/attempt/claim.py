"""Claims: which run computes a stage now, so that two equal runs do not both pay for it.

A claim is a numbered object below `stages/<key>/claims/` that its holder rewrites every few seconds. Another run's
attempt waits while the newest claim keeps changing. Once it has not changed for `EXPIRY` seconds of the waiting
process's own clock, that attempt takes over with the next number. No two clocks are compared, as with Kubernetes'
Leases. Attempts of one run share a claim, because the planner starts a second one only when the first can no longer
publish.

A claim only saves work. The conditional put of the manifest alone protects the result.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from pydantic import ValidationError

from ..contract.errors import StageError
from ..contract.keys import claim_path, claims_prefix
from ..contract.manifest import Claim
from ..contract.stage import StageSpec
from ..store.base import Store

log = logging.getLogger(__name__)

Result = TypeVar("Result")

RENEWAL = 15.0
"""Seconds between two renewals."""
EXPIRY = 60.0
"""Seconds without a renewal after which another run takes over."""
LOOK = 5.0
"""Seconds after which a waiting attempt looks again."""
PARTING = 5.0
"""Seconds that an ending process waits for a renewal in progress."""


class Held:
    """A claim that this process renews until it releases it."""

    def __init__(self, store: Store, spec: StageSpec, number: int) -> None:
        self._store = store
        self._spec = spec
        self._location = claim_path(spec.key, number)
        self._renewed = True
        """Whether the last renewal succeeded."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="claim")
        self._thread.start()

    def release(self, free: bool) -> None:
        """Stop renewing. If `free`, others may claim the stage at once; otherwise the claim expires."""
        self._over.set()
        # An ending process must not wait for a storage that does not answer: the claim expires by itself.
        self._thread.join(PARTING)
        if not free or self._thread.is_alive() or not self._renewed:
            return
        try:
            self._store.delete(self._location)
        except StageError as error:
            log.warning("the claim to this stage cannot be removed and expires in %.0f s: %s", EXPIRY, error)

    def _renew(self) -> None:
        # The first renewal is immediate: a claim that an earlier process of this run has left may be about to expire.
        while True:
            try:
                self._store.put_bytes(encoded(self._spec), self._location)
                self._renewed = True
            except StageError as error:
                # If another run takes over, it does the same work a second time, which costs but does no harm.
                self._renewed = False
                log.warning("the claim to this stage was not renewed: %s", error)
            if self._over.wait(RENEWAL):
                return


@dataclass(frozen=True)
class _Seen:
    """The newest claim, when it was first seen as it is, and when it was last seen."""

    number: int
    data: bytes
    since: float
    looked: float


@contextmanager
def claimed(
    store: Store,
    bare: Store,
    spec: StageSpec,
    published: Callable[[], Result | None],
    waiting: Callable[[str | None], None],
    pause: Callable[[float], None],
) -> Iterator[Result | None]:
    """Claim the stage, and renew the claim while the stage is computed.

    Yields the stage's result if another run publishes it first; otherwise None, and this run computes it. The claim is
    freed at the end, unless other shards may still be running: they renew it, or it expires.

    Args:
        store: the store of the stage, with patience if it is remote.
        bare: the same store without patience, for renewals.
        spec: the stage. The claim belongs to its run.
        published: looks for the result.
        waiting: called at each look with the run that computes the stage, and with None once this run does.
        pause: waits for so many seconds, or raises.

    Raises StageError of the store, and what `pause` raises.
    """
    found = acquire(store, spec, published, waiting, pause)
    if not isinstance(found, int):
        yield found
        return
    claim = Held(bare, spec, found)
    try:
        # Since the last look, the holder may have published the result and freed its claim.
        yield published()
    finally:
        claim.release(free=spec.shard.count == 1)


def acquire(
    store: Store,
    spec: StageSpec,
    published: Callable[[], Result | None],
    waiting: Callable[[str | None], None],
    pause: Callable[[float], None],
    clock: Callable[[], float] = time.monotonic,
) -> Result | int:
    """The stage's result if another run publishes it first; otherwise the number of this run's claim.

    See `claimed`. `clock` returns monotonic seconds.
    """
    seen: _Seen | None = None
    while True:
        number = _newest(store, spec.key)
        data = store.read(claim_path(spec.key, number)) if number else None
        holder = _parsed(data) if data is not None else None
        if holder is not None and holder.holder == identity(spec):
            break
        if data is not None:
            seen = _looked(seen, number, data, clock())
        if data is None or (seen is not None and seen.looked - seen.since >= EXPIRY):
            if data is not None:
                log.warning("%s has not renewed its claim for %.0f s: this run takes over", _name(holder), EXPIRY)
            number += 1
            if store.put_if_absent(encoded(spec), claim_path(spec.key, number)):
                break
            continue
        waiting(_name(holder))
        pause(LOOK)
        if (result := published()) is not None:
            return result
    if seen is not None:
        waiting(None)
    return number


def _looked(before: _Seen | None, number: int, data: bytes, now: float) -> _Seen:
    """What is known of the newest claim after one more look.

    Time counts against the claim only while this process looks. If it has not looked for long, it may have been paused,
    or the storage did not answer, and then the holder could not renew either.
    """
    unchanged = before is not None and (before.number, before.data) == (number, data)
    if before is None or not unchanged or now - before.looked > 2 * LOOK + RENEWAL:
        return _Seen(number, data, now, now)
    return replace(before, looked=now)


def identity(spec: StageSpec) -> str:
    """The holder of the spec's claim: its run. Local runs of two machines may share a uid, so the host is added."""
    return f"{spec.run.uid}@{socket.gethostname()}" if spec.run.uid.startswith("local:") else spec.run.uid


def encoded(spec: StageSpec) -> bytes:
    """A claim as it is stored, never the same twice."""
    claim = Claim(run=spec.run, holder=identity(spec), attempt=spec.attempt, token=secrets.token_hex(8))
    return json.dumps(claim.wire(), ensure_ascii=False).encode()


def _newest(store: Store, key: str) -> int:
    """Number of the newest claim, 0 if there is none."""
    names = (location.removeprefix(claims_prefix(key)) for location, _ in store.list(claims_prefix(key)))
    numbers = (name.removesuffix(".json") for name in names)
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _parsed(data: bytes) -> Claim | None:
    try:
        return Claim.stored(data)
    except ValidationError:
        return None


def _name(claim: Claim | None) -> str:
    return f"{claim.run.namespace}/{claim.run.name}" if claim else "another run"
