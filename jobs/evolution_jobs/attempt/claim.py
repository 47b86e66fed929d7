"""Which run computes a stage now, so that two equal runs do not both pay for it.

A claim is a numbered object below `stages/<key>/claims/` that its holder rewrites every few seconds. Another run's
attempt waits while the newest claim keeps changing, and takes over by the next number once it has not changed for
`EXPIRY` seconds of its own clock: no two clocks are compared, as with Kubernetes' Leases. Attempts of one run share a
claim, because its planner starts a second one only once the first cannot publish any more.

A claim saves work and decides nothing: results are fenced by the conditional put of the manifest alone.
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
"""Seconds after which a claim that nobody renews is taken over."""
LOOK = 5.0
"""Seconds between two looks of an attempt that waits."""
PARTING = 5.0
"""Seconds that a process which ends waits for a renewal that is under way."""


class Held:
    """A claim that this process renews until it lets go of it."""

    def __init__(self, store: Store, spec: StageSpec, number: int) -> None:
        self._store = store
        self._spec = spec
        self._location = claim_path(spec.key, number)
        self._renewed = True
        """Whether the last renewal came through."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="claim")
        self._thread.start()

    def let_go(self, free: bool) -> None:
        """Stop renewing; `free` lets others have the stage at once, otherwise the claim runs out."""
        self._over.set()
        # Whoever ends must not wait for a storage that is away: the claim runs out by itself.
        self._thread.join(PARTING)
        if not free or self._thread.is_alive() or not self._renewed:
            return
        try:
            self._store.delete(self._location)
        except StageError as error:
            log.warning("the claim to this stage could not be removed and runs out in %.0f s: %s", EXPIRY, error)

    def _renew(self) -> None:
        # At once, too: a claim that an earlier process of this run has left may be about to run out.
        while True:
            try:
                self._store.put_bytes(encoded(self._spec), self._location)
                self._renewed = True
            except StageError as error:
                # Whoever takes over only does what is done here, too.
                self._renewed = False
                log.warning("the claim to this stage was not renewed: %s", error)
            if self._over.wait(RENEWAL):
                return


@dataclass(frozen=True)
class _Seen:
    """The newest claim, since when it has been as it is, and when that was last looked at."""

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
    """Claim the stage, and renew the claim while it is computed.

    Yields the stage's result, where another run has published it meanwhile; else None, and this run computes it. The
    claim is freed at the end, unless other shards may still be at work: they renew it, or it runs out.

    Args:
        store: where the stage is computed for; it is waited for where it is away.
        bare: the same, without patience.
        spec: the stage; its run is whose claim it will be.
        published: looks for the result.
        waiting: told at each look which run computes the stage, and None once this one does.
        pause: waits so many seconds, or raises.

    Raises StageError of the store, and what `pause` raises.
    """
    found = acquire(store, spec, published, waiting, pause)
    if not isinstance(found, int):
        yield found
        return
    claim = Held(bare, spec, found)
    try:
        # Its holder may have published, and freed it, since the last look.
        yield published()
    finally:
        claim.let_go(free=spec.shard.count == 1)


def acquire(
    store: Store,
    spec: StageSpec,
    published: Callable[[], Result | None],
    waiting: Callable[[str | None], None],
    pause: Callable[[float], None],
    clock: Callable[[], float] = time.monotonic,
) -> Result | int:
    """The stage's result, if another run publishes it meanwhile; else the number of the claim that is this run's now.

    See `claimed`; `clock` tells monotonic seconds.
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
                log.warning("the claim of %s has not been renewed for %.0f s: taken over", _name(holder), EXPIRY)
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

    Time counts against it only while this process looks: if it has not for long, the storage may have been away for the
    holder, too, or this process was paused.
    """
    unchanged = before is not None and (before.number, before.data) == (number, data)
    if before is None or not unchanged or now - before.looked > 2 * LOOK + RENEWAL:
        return _Seen(number, data, now, now)
    return replace(before, looked=now)


def identity(spec: StageSpec) -> str:
    """Who a claim belongs to: the run. Equal runs on two machines have one uid, which is then told with the host."""
    return f"{spec.run.uid}@{socket.gethostname()}" if spec.run.uid.startswith("local:") else spec.run.uid


def encoded(spec: StageSpec) -> bytes:
    """A claim as it is stored, never the same twice."""
    claim = Claim(run=spec.run, holder=identity(spec), attempt=spec.attempt, token=secrets.token_hex(8))
    return json.dumps(claim.wire(), ensure_ascii=False).encode()


def _newest(store: Store, key: str) -> int:
    """Number of the newest claim, 0 where there is none."""
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
