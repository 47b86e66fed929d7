"""Pointers in the store: `runs/<namespace>/<name>/M0` says where the run's first model is, whoever has computed it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evolution_jobs.contract.errors import EXIT_TRANSIENT, TransientError
from evolution_jobs.contract.keys import manifest_path
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.manifest import File, Manifest, Output, content_digest
from evolution_jobs.contract.names import Pointer
from evolution_jobs.store.file import FileStore
from evolution_jobs.store.manifests import publish
from evolution_jobs.store.open import open_store
from evolution_jobs.store.pointers import point
from evolution_operator.results.find import results_of_pointers

from tests.support.stages import fake_stages
from tests.support.stages.finished import ARTIFACTS, finished_run
from tests.support.stages.runner import Runner
from tests.unit.test_cleanup import MINE
from tests.unit.test_runner import manifest_of, never


def pointers(storage: Storage, name: str = "run") -> dict[str, Pointer]:
    """Pointers of a run by the last part of their location."""
    store, prefix = open_store(storage), f"runs/tests/{name}/"
    locations = [location for location, _ in store.list(prefix) if location.count("/") == 3]
    return {location.removeprefix(prefix): Pointer.stored(store.read(location) or b"") for location in locations}


def test_each_finished_stage_has_pointers_to_its_artifacts(directory: Storage, run: Runner) -> None:
    contents = run.trained(directory)
    assert pointers(directory).keys() == {"train", "contexts", "M0"}
    spec = fake_stages.spec(directory, "sft", contents)
    made = manifest_of(directory, spec).outputs["adapter"]
    assert pointers(directory)["M0"] == Pointer(
        artifact="M0",
        run=spec.run,
        stage="sft",
        key=spec.key,
        output="adapter",
        digest=made.digest,
        manifest=manifest_path(spec.key),
        files=made.files,
    )
    for stage in ("generate-1", "evaluate-0"):
        run(fake_stages.spec(directory, stage, contents))
    assert pointers(directory).keys() == ARTIFACTS


def test_a_run_that_finds_everything_published_points_to_it_from_prepare_on(directory: Storage, run: Runner) -> None:
    finished_run(directory)
    nodes = fake_stages.graph(pins={"uid": "other"})
    code, _ = run(fake_stages.spec(directory, "prepare", nodes=nodes, name="other"))
    assert code == 0
    found, first = pointers(directory, "other"), pointers(directory)
    assert found.keys() == ARTIFACTS
    assert found["M0"].run.name == "other"
    assert (found["M0"].key, found["M0"].files) == (first["M0"].key, first["M0"].files)
    assert found["train"].key != first["train"].key, "each run has its own prepare"


def test_a_newer_result_of_the_name_takes_the_pointer(directory: Storage, run: Runner) -> None:
    run.trained(directory)
    before = pointers(directory)["M0"]
    nodes = fake_stages.graph({"epochs": 7})
    contents = run.prepared(directory, nodes=nodes)
    assert pointers(directory)["M0"] == before
    spec = fake_stages.spec(directory, "sft", contents, nodes=nodes)
    assert run(spec)[0] == 0
    assert pointers(directory)["M0"].key == spec.key != before.key


def test_a_stage_whose_pointer_could_not_be_written_is_kept_and_pointed_to_by_the_next_attempt(
    directory: Storage, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = run.prepared(directory)
    spec = fake_stages.spec(directory, "sft", contents)

    put = FileStore.put_bytes

    def full(self: FileStore, data: bytes, location: str) -> None:
        if location.startswith("runs/"):
            raise TransientError("StorageFull", location)
        put(self, data, location)

    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "put_bytes", full)
        code, report = run(spec)
        assert (code, report.reason) == (EXIT_TRANSIENT, "StorageFull")
    assert "M0" not in pointers(directory)
    manifest = manifest_of(directory, spec)
    code, report = run(fake_stages.spec(directory, "sft", contents, attempt="a-2"), sft=never)
    assert (code, report.reason) == (0, "Cached")
    assert pointers(directory)["M0"].digest == manifest.outputs["adapter"].digest


def test_each_pointer_is_written_once_by_the_process_that_publishes(
    directory: Storage, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    put = FileStore.put_bytes
    monkeypatch.setattr(FileStore, "put_bytes", lambda self, data, at: (written.append(at), put(self, data, at)))
    contents = run.trained(directory)
    for stage in ("generate-1", "evaluate-0"):
        run(fake_stages.spec(directory, stage, contents))
    assert sorted(at for at in written if at.startswith("runs/")) == sorted(
        f"runs/tests/run/{name}" for name in ARTIFACTS
    )


def test_a_storage_alone_is_enough_to_find_a_run(storage: Storage) -> None:
    finished_run(storage)
    found = results_of_pointers(open_store(storage), None, "run")
    assert found.artifacts.keys() == ARTIFACTS
    assert list(found.manifests) == ["prepare", "sft", "generate-1", "evaluate-0"]


def test_the_pointer_to_what_a_stage_always_makes_says_which_result_counts(directory: Storage) -> None:
    """The newer run of the name makes no safety replies, so the earlier one's pointer to them stays, and is listed last."""
    store = open_store(directory)

    def evaluated(key: str, *outputs: str) -> Manifest:
        made = {}
        for name in outputs:
            location = f"stages/{key}/attempts/a/{name}/{name}.jsonl"
            store.put_bytes(b"{}", location)
            digest = store.sha256(location) or ""
            file = File(path=f"{name}.jsonl", location=location, sha256=digest, size=2)
            made[name] = Output(digest=content_digest([(file.path, digest)]), files=[file])
        known = {"settings": {}, "seed": 0, "code": {}, "seconds": 1.0, "attempt": "a", "run": MINE, "outputs": made}
        return publish(store, Manifest(key=key, kind="evaluate", stage="evaluate-0", iteration=0, **known))

    for manifest in (evaluated("a" * 64, "answers", "metrics", "safety"), evaluated("b" * 64, "answers", "metrics")):
        point(store, MINE, [manifest])
    found = results_of_pointers(store, MINE.namespace, MINE.name)
    assert found.manifests["evaluate-0"].key == "b" * 64
    assert found.artifacts.keys() == {"answers-0", "metrics-0"}


def test_a_pointer_says_nothing_that_a_newer_version_may_not_add_to(directory: Storage, tmp_path: Path) -> None:
    store = open_store(directory)
    document = {"artifact": "M0", "run": MINE.wire(), "stage": "sft", "key": "a" * 64, "output": "adapter"}
    document |= {"digest": "b" * 64, "manifest": manifest_path("a" * 64), "files": [], "newer": 1}
    store.put_bytes(json.dumps(document).encode(), "runs/team/mine/M0")
    assert results_of_pointers(store, "team", "mine").artifacts == {}
