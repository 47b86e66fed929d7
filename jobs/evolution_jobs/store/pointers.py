"""Pointers to a run's artifacts: `runs/<namespace>/<name>/M2` says which stage has the model of round 2.

Nothing of a run depends on a pointer: keys lead to its results, and records say what other runs share. Pointers are for
people, and for commands that know only a storage and a run's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from ..contract.keys import manifest_path
from ..contract.manifest import Manifest
from ..contract.names import Pointer, artifacts, pointer_path
from ..contract.stage import RunRef
from .base import Store

WRITES = 16
"""Requests in flight at once while pointers are written."""


def point(store: Store, run: RunRef, manifests: Iterable[Manifest]) -> None:
    """Write a pointer to each artifact of the finished stages. Earlier pointers of these names are replaced.

    Raises StageError. The stages are published by then, so the next attempt finds them and writes the pointers.
    """
    pointers = [pointer for manifest in manifests for pointer in pointers_of(run, manifest)]
    if not pointers:
        return

    def write(pointer: Pointer) -> None:
        data = json.dumps(pointer.wire(), ensure_ascii=False, indent=1).encode()
        store.put_bytes(data, pointer_path(run, pointer.artifact))

    with ThreadPoolExecutor(WRITES) as pool:
        list(pool.map(write, pointers))


def pointers_of(run: RunRef, manifest: Manifest) -> list[Pointer]:
    """The pointers that a run has to the artifacts of a finished stage."""
    return [
        Pointer(
            artifact=artifact,
            run=run,
            stage=manifest.stage,
            key=manifest.key,
            output=output,
            digest=manifest.outputs[output].digest,
            manifest=manifest_path(manifest.key),
            files=manifest.outputs[output].files,
        )
        for artifact, output in artifacts(manifest)
    ]
