"""A deleted run's artifacts go; what other runs share stays; nothing goes where that cannot be told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from evolution_jobs.cleanup import clean_up
from evolution_jobs.contract.cleanup import CleanupSpec
from evolution_jobs.contract.errors import EXIT_PERMANENT
from evolution_jobs.contract.keys import manifest_path, model_prefix, model_record_path, stage_record_path
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.manifest import Manifest, Output
from evolution_jobs.contract.stage import RunRef
from evolution_jobs.store.base import Store
from evolution_jobs.store.file import FileStore
from evolution_jobs.store.open import open_store
from evolution_jobs.store.pointers import point
from evolution_jobs.store.s3 import S3Store
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.storage.servers import s3_storage

MINE = RunRef(namespace="team", name="mine", uid="uid-1")
LATER = MINE.model_copy(update={"uid": "uid-9"})
OTHER = RunRef(namespace="team", name="other", uid="uid-2")
OWN, SHARED, UNRECORDED = "a" * 64, "b" * 64, "c" * 64
MODEL, SHARED_MODEL = "d" * 64, "e" * 64


def record(store: Store, run: RunRef, *keys: str) -> None:
    for number, key in enumerate(keys, 1):
        store.put_bytes(b"{}", stage_record_path(run, f"dpo-{number}", key))


def publish(store: Store, *keys: str) -> None:
    for key in keys:
        store.put_bytes(b"{}", manifest_path(key))
        store.put_bytes(b"weights", f"stages/{key}/attempts/x/adapter/adapter_model.safetensors")


def point_to(store: Store, run: RunRef, *keys: str) -> None:
    """Pointers M1, M2, ... to the models of these stages."""
    for number, key in enumerate(keys, 1):
        outputs = {"adapter": Output(digest="0" * 64, files=[])}
        known = {"settings": {}, "seed": 0, "code": {}, "seconds": 1.0, "attempt": "x", "outputs": outputs}
        point(store, run, [Manifest(key=key, kind="dpo", stage=f"dpo-{number}", iteration=number, run=OTHER, **known)])


def left(store: Store, below: str = "stages/") -> set[str]:
    return {location.split("/")[1] for location, _ in store.list(below)}


def test_what_is_shared_stays(storage: Storage) -> None:
    store = open_store(storage)
    publish(store, OWN, SHARED, UNRECORDED)
    record(store, MINE, OWN, SHARED)
    record(store, OTHER, SHARED)

    report = clean_up(store, CleanupSpec(run=MINE, storage=storage, keys=[UNRECORDED]))

    assert left(store) == {SHARED}
    assert report.counts == {"deleted": 2, "shared": 1}
    assert {location for location, _ in store.list("runs/")} == {stage_record_path(OTHER, "dpo-1", SHARED)}
    again = clean_up(store, CleanupSpec(run=MINE, storage=storage, keys=[UNRECORDED]))
    assert again.counts == {"deleted": 1, "shared": 0}


def test_what_another_run_takes_up_while_this_one_is_cleaned_up_stays(tmp_path: Path) -> None:
    storage = Storage(uri=tmp_path.as_uri())
    first, second = sorted((OWN, SHARED))

    class Meanwhile(FileStore):
        def delete(self, location: str) -> None:
            super().delete(location)
            if location == manifest_path(first):
                record(self, OTHER, second)

    store = Meanwhile(tmp_path)
    publish(store, OWN, SHARED)
    record(store, MINE, OWN, SHARED)
    assert clean_up(store, CleanupSpec(run=MINE, storage=storage)).counts == {"deleted": 1, "shared": 1}
    assert left(store) == {second}


def test_a_copied_model_goes_with_the_last_run_that_has_it(storage: Storage) -> None:
    store = open_store(storage)
    for digest in (MODEL, SHARED_MODEL):
        store.put_bytes(b"weights", f"{model_prefix(digest)}model.safetensors")
        store.put_bytes(b"{}", model_record_path(MINE, digest))
    store.put_bytes(b"{}", model_record_path(OTHER, SHARED_MODEL))

    clean_up(store, CleanupSpec(run=MINE, storage=storage))
    assert left(store, "models/") == {SHARED_MODEL}
    clean_up(store, CleanupSpec(run=OTHER, storage=storage))
    assert left(store, "models/") == set()


def test_a_later_run_of_the_name_keeps_what_it_has(tmp_path: Path) -> None:
    storage = Storage(uri=tmp_path.as_uri())
    store = open_store(storage)
    publish(store, OWN, SHARED)
    record(store, MINE, OWN, SHARED)
    record(store, LATER, SHARED)

    clean_up(store, CleanupSpec(run=MINE, storage=storage, keys=[OWN, SHARED]))

    assert left(store) == {SHARED}
    assert {location for location, _ in store.list("runs/")} == {stage_record_path(LATER, "dpo-1", SHARED)}


def test_pointers_go_with_the_run_that_wrote_them(storage: Storage) -> None:
    store = open_store(storage)
    publish(store, OWN, SHARED)
    record(store, MINE, OWN, SHARED)
    record(store, OTHER, SHARED)
    point_to(store, MINE, OWN, SHARED)
    point_to(store, OTHER, OWN, SHARED)
    store.put_bytes(b"<html>", "runs/team/mine/report.html")
    store.put_bytes(b"<html>", "runs/team/other/report.html")

    assert clean_up(store, CleanupSpec(run=MINE, storage=storage)).counts == {"deleted": 1, "shared": 1}

    assert {location for location, _ in store.list("runs/")} == {
        stage_record_path(OTHER, "dpo-1", SHARED),
        *(f"runs/team/other/{name}" for name in ("M1", "M2", "report.html")),
    }


def test_pointers_and_report_of_a_later_run_of_the_name_stay(directory: Storage) -> None:
    store = open_store(directory)
    publish(store, OWN, SHARED)
    record(store, MINE, OWN, SHARED)
    point_to(store, MINE, OWN, OWN)
    record(store, LATER, SHARED)
    point_to(store, LATER, SHARED)
    store.put_bytes(b"<html>", "runs/team/mine/report.html")

    clean_up(store, CleanupSpec(run=MINE, storage=directory))

    there = {"runs/team/mine/M1", "runs/team/mine/report.html", stage_record_path(LATER, "dpo-1", SHARED)}
    assert {location for location, _ in store.list("runs/")} == there
    clean_up(store, CleanupSpec(run=LATER, storage=directory))
    assert list(store.list("")) == []


@pytest.mark.parametrize("content", [b"{", b"", b'{"artifact": "M1"}', b"\xff"])
def test_what_lies_in_a_pointer_s_place_and_is_none_keeps_everything(directory: Storage, content: bytes) -> None:
    store = open_store(directory)
    publish(store, OWN)
    record(store, MINE, OWN)
    store.put_bytes(content, "runs/team/mine/M1")
    report = clean_up(store, CleanupSpec(run=MINE, storage=directory))
    assert (report.reason, report.counts) == ("RecordsUnknown", {"deleted": 0, "shared": 1})
    assert "runs/team/mine/M1" in report.message
    assert left(store) == {OWN}


@pytest.mark.parametrize("content", [b"{", b"", b'{"newer": true}', b"\xff"])
def test_a_record_counts_whatever_it_holds(storage: Storage, content: bytes) -> None:
    store = open_store(storage)
    publish(store, OWN, SHARED)
    record(store, MINE, OWN, SHARED)
    store.put_bytes(content, stage_record_path(OTHER, "sft", SHARED))

    report = clean_up(store, CleanupSpec(run=MINE, storage=storage))

    assert (left(store), report.counts) == ({SHARED}, {"deleted": 1, "shared": 1})


@pytest.mark.parametrize(
    "location",
    [
        "runs/team/other/run.json",
        "runs/team/other/m2",
        "runs/team/other/uid-2/M2",
        "runs/M2",
        f"runs/team/other/uid-2/stages/sft/{SHARED}.v2",
        f"runs/team/other/uid-2/rewards/{SHARED}.json",
        f"runs/team/mine/uid-1/stages/sft/{SHARED[:-1]}.json",
    ],
)
def test_a_record_of_another_layout_keeps_everything_and_is_named(storage: Storage, location: str) -> None:
    store = open_store(storage)
    publish(store, OWN, SHARED)
    record(store, MINE, OWN)
    store.put_bytes(b"{}", location)

    report = clean_up(store, CleanupSpec(run=MINE, storage=storage))

    assert (report.reason, report.counts) == ("RecordsUnknown", {"deleted": 0, "shared": 1})
    assert location in report.message
    assert left(store) == {OWN, SHARED}
    store.delete(location)
    assert clean_up(store, CleanupSpec(run=MINE, storage=storage)).counts == {"deleted": 1, "shared": 0}


@pytest.mark.usefixtures("s3_environment")
def test_an_object_that_stands_for_a_folder_is_no_record(moto: str) -> None:
    storage = s3_storage(moto)
    store = open_store(storage)
    assert isinstance(store, S3Store)
    store.bucket.client.put_object(Bucket=store.bucket.name, Key=f"{store.prefix}runs/", Body=b"")
    publish(store, OWN)
    record(store, MINE, OWN)
    assert clean_up(store, CleanupSpec(run=MINE, storage=storage)).counts == {"deleted": 1, "shared": 0}


RUNS = st.builds(RunRef, namespace=st.sampled_from("ab"), name=st.sampled_from("xy"), uid=st.sampled_from("12"))
KEYS = st.sampled_from([letter * 64 for letter in "abcdef"])


@settings(max_examples=60, deadline=None)
@given(had=st.dictionaries(RUNS, st.sets(KEYS), min_size=1), data=st.data())
def test_whatever_another_run_has_stays_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, had: dict[RunRef, set[str]], data: st.DataObject
) -> None:
    storage = Storage(uri=tmp_path_factory.mktemp("store").as_uri())
    store = open_store(storage)
    for run, keys in had.items():
        publish(store, *keys)
        record(store, run, *keys)
    for run in data.draw(st.permutations(sorted(had, key=str))):
        clean_up(store, CleanupSpec(run=run, storage=storage))
        had.pop(run)
        assert left(store) == set().union(*had.values())
    assert list(store.list("")) == []


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
