"""Kill a stage with SIGKILL at each point where it uses storage, and check what remains.

    python -m tests.support.stages.killed_stage STORAGE_JSON STAGE FIRST STEP

For n = FIRST, FIRST + STEP, ... a child process runs STAGE on storage without results of it, and is killed at the n-th
point. Then a second child runs the same stage to its end. Prints one JSON object for each kill. Ends after the first n
that is never reached.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from evolution_jobs.contract.keys import manifest_path, stage_prefix, stage_record_path
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.stage import StageSpec
from evolution_jobs.runner import run_stage
from evolution_jobs.store.manifests import corrupt_files, read_manifest
from evolution_jobs.store.open import open_store

from tests.support.stages import fake_stages

POINTS = {"os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "http.client.send"}


def in_child(act: Callable[[], int], kill_at: int | None = None) -> int:
    """Run in a forked process. Returns its exit code, or the negative number of the signal that ended it."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if kill_at is not None:
            kill_at_point(kill_at)
        os._exit(act())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_point(number: int) -> None:
    """SIGKILL this process at the `number`-th operation on files or connections, counted from 1."""
    seen = itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa")
        if (event in POINTS or writes) and next(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def look(storage: Storage, spec: StageSpec) -> dict[str, Any]:
    """What a reader finds: faults of the manifest, files that nothing refers to, and whether the run has recorded the stage."""
    store = open_store(storage)
    manifest = read_manifest(store, spec.key)
    named = {file.location for output in manifest.outputs.values() for file in output.files} if manifest else set()
    below = {location for location, _ in store.list(stage_prefix(spec.key))}
    return {
        "published": manifest is not None,
        "faults": corrupt_files(store, manifest) if manifest else [],
        "unnamed": sorted(below - named - {manifest_path(spec.key)}),
        "recorded": store.read(stage_record_path(spec.run, spec.stage, spec.key)) is not None,
    }


def main(storage: Storage, stage: str, first: int, step: int) -> None:
    """Kill at each point in turn."""
    spec = fake_stages.spec(storage, stage, prepared(storage, stage))
    store = open_store(storage)
    for number in itertools.count(first, step):
        store.delete(stage_prefix(spec.key))
        store.delete(stage_record_path(spec.run, spec.stage, spec.key))
        ended = in_child(lambda: run_stage(spec, fake_stages.stages()), kill_at=number)
        after = look(storage, spec)
        again = in_child(lambda: run_stage(spec, fake_stages.stages()))
        print(json.dumps({"at": number, "ended": ended, "after": after, "again": again, "end": look(storage, spec)}))
        if ended != -signal.SIGKILL:
            return


def prepared(storage: Storage, stage: str) -> dict[str, str]:
    """Run the stages before this one without a kill. Returns prepare's content digests."""
    first = fake_stages.spec(storage, "prepare")
    assert in_child(lambda: run_stage(first, fake_stages.stages())) == 0
    manifest = read_manifest(open_store(storage), first.key)
    assert manifest is not None
    contents = manifest.contents
    if stage != "sft":
        second = fake_stages.spec(storage, "sft", contents)
        assert in_child(lambda: run_stage(second, fake_stages.stages())) == 0
    return contents


if __name__ == "__main__":
    main(Storage.model_validate_json(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
