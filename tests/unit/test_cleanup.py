"""A deleted run's artifacts go; what other runs share stays; nothing goes where that cannot be told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from evolution_jobs.cleanup import clean_up
from evolution_jobs.contract.cleanup import CleanupSpec
from evolution_jobs.contract.errors import EXIT_PERMANENT, PermanentError
from evolution_jobs.contract.keys import manifest_path, run_record_path
from evolution_jobs.contract.manifest import RunRecord, StageRecord
from evolution_jobs.contract.settings import Storage
from evolution_jobs.contract.stage import RunRef
from evolution_jobs.store.base import Store
from evolution_jobs.store.open import open_store

MINE = RunRef(namespace="team", name="mine", uid="uid-1")
OTHER = RunRef(namespace="team", name="other", uid="uid-2")
OWN, SHARED, UNRECORDED = "a" * 64, "b" * 64, "c" * 64


def record(store: Store, run: RunRef, *keys: str) -> None:
    stages = {f"dpo-{n}": StageRecord(key=key, kind="dpo", state="Published") for n, key in enumerate(keys, 1)}
    store.put_bytes(json.dumps(RunRecord(run=run, stages=stages).wire()).encode(), run_record_path(run))


def publish(store: Store, *keys: str) -> None:
    for key in keys:
        store.put_bytes(b"{}", manifest_path(key))
        store.put_bytes(b"weights", f"stages/{key}/attempts/x/adapter/adapter_model.safetensors")


def left(store: Store) -> set[str]:
    return {location.split("/")[1] for location, _ in store.list("stages/")}


def test_what_is_shared_stays(storage: Storage) -> None:
    store = open_store(storage)
    publish(store, OWN, SHARED, UNRECORDED)
    record(store, MINE, OWN, SHARED)
    record(store, OTHER, SHARED)

    report = clean_up(store, CleanupSpec(run=MINE, storage=storage, keys=[UNRECORDED]))

    assert left(store) == {SHARED}
    assert report.counts == {"deleted": 2, "shared": 1}
    assert {location for location, _ in store.list("runs/")} == {run_record_path(OTHER)}
    again = clean_up(store, CleanupSpec(run=MINE, storage=storage, keys=[UNRECORDED]))
    assert again.counts == {"deleted": 1, "shared": 0}


def test_a_newer_run_of_the_name_keeps_what_it_names(tmp_path: Path) -> None:
    storage = Storage(uri=tmp_path.as_uri())
    store = open_store(storage)
    publish(store, OWN, SHARED)
    record(store, MINE.model_copy(update={"uid": "uid-9"}), SHARED)

    clean_up(store, CleanupSpec(run=MINE, storage=storage, keys=[OWN, SHARED]))

    assert left(store) == {SHARED}
    assert store.read(run_record_path(MINE)) is not None


def test_a_record_that_cannot_be_read_saves_everything(tmp_path: Path) -> None:
    storage = Storage(uri=tmp_path.as_uri())
    store = open_store(storage)
    publish(store, OWN)
    record(store, MINE, OWN)
    store.put_bytes(b"{", run_record_path(OTHER))

    with pytest.raises(PermanentError, match=r"runs/team/other/run.json cannot be read"):
        clean_up(store, CleanupSpec(run=MINE, storage=storage))

    assert left(store) == {OWN}


def test_the_command_says_how_it_went(tmp_path: Path) -> None:
    storage = Storage(uri=(tmp_path / "store").as_uri())
    store = open_store(storage)
    publish(store, OWN)
    record(store, MINE, OWN)
    spec = tmp_path / "cleanup.json"
    spec.write_text(json.dumps(CleanupSpec(run=MINE, storage=storage).wire()))

    def run(path: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "evolution_jobs.cleanup", "--spec", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run(spec)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"] == {"deleted": 1, "shared": 0}

    spec.write_text("{}")
    refused = run(spec)
    assert refused.returncode == EXIT_PERMANENT
    assert json.loads(refused.stdout)["reason"] == "SpecInvalid"
    assert "Traceback" not in refused.stderr
