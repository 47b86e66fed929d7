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
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


class Held:
    """A claim that this process renews until it lets go of it."""

    def __init__(self, store: Store, spec: StageSpec, number: int) -> None:
        self._store = store
        self._spec = spec
        self._location = claim_path(spec.key, number)
        self._renewals = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="claim")
        self._thread.start()

    def let_go(self, free: bool) -> None:
        """Stop renewing; `free` lets others have the stage at once, otherwise the claim runs out."""
        self._over.set()
        # A renewal on its way to a storage that is away may take longer; then the claim runs out.
        self._thread.join(RENEWAL)
        if not free:
            return
        try:
            self._store.delete(self._location)
        except StageError as error:
            log.warning("the claim to this stage could not be removed and runs out in %.0f s: %s", EXPIRY, error)

    def _renew(self) -> None:
        while not self._over.wait(RENEWAL):
            self._renewals += 1
            try:
                self._store.put_bytes(encoded(self._spec, self._renewals), self._location)
            except StageError as error:
                # Whoever takes over only does what is done here, too.
                log.warning("the claim to this stage was not renewed: %s", error)


@dataclass
class _Seen:
    """The newest claim, and since when it has been as it is."""

    number: int
    data: bytes
    since: float


@contextmanager
def held(store: Store, spec: StageSpec, number: int) -> Iterator[None]:
    """Renew a claim while the stage is computed.

    It is freed at the end, unless other shards may still be at work: they renew it, or it runs out.
    """
    claim = Held(store, spec, number)
    try:
        yield
    finally:
        claim.let_go(free=spec.shard.count == 1)


def acquire(
    store: Store,
    spec: StageSpec,
    published: Callable[[], Result | None],
    waiting: Callable[[str], None],
    pause: Callable[[float], None],
    clock: Callable[[], float] = time.monotonic,
) -> Result | int:
    """The stage's result, if another run publishes it meanwhile; else the number of the claim that is this run's now.

    Args:
        store: where the stage is computed for.
        spec: the stage; its run is whose claim it will be.
        published: looks for the result.
        waiting: told at each look which run computes the stage.
        pause: waits so many seconds, or raises.
        clock: monotonic seconds.

    Raises StageError of the store, and what `pause` raises.
    """
    seen: _Seen | None = None
    while True:
        number = _newest(store, spec.key)
        data = store.read(claim_path(spec.key, number)) if number else None
        holder = _parsed(data) if data is not None else None
        if holder is not None and holder.run == spec.run:
            return number
        if data is not None and (seen is None or (seen.number, seen.data) != (number, data)):
            seen = _Seen(number, data, clock())
        if data is None or (seen is not None and clock() - seen.since >= EXPIRY):
            if data is not None:
                log.warning("the claim of %s has not been renewed for %.0f s: taken over", _name(holder), EXPIRY)
            if store.put_if_absent(encoded(spec, 0), claim_path(spec.key, number + 1)):
                # Its holder may have published, and freed it, since the last look.
                result = published()
                return number + 1 if result is None else result
            continue
        waiting(_name(holder))
        pause(LOOK)
        if (result := published()) is not None:
            return result


def encoded(spec: StageSpec, renewals: int) -> bytes:
    """A claim as it is stored. Every renewal changes it."""
    claim = Claim(run=spec.run, attempt=spec.attempt, shard=spec.shard.index, renewals=renewals)
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
