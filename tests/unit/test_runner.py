"""Running a stage: published once, resumed, refused, explained."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import UserDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs import __main__ as command
from evolution_jobs.attempt import checkpoints, scratch
from evolution_jobs.attempt import workspace as workspace_module
from evolution_jobs.attempt.report import TERMINATION_LIMIT, trimmed
from evolution_jobs.attempt.rows import StoredRows
from evolution_jobs.contract.errors import (
    EXIT_PERMANENT,
    EXIT_TERMINATED,
    EXIT_TRANSIENT,
    PermanentError,
    Terminated,
    TransientError,
)
from evolution_jobs.contract.figures import KINDS
from evolution_jobs.contract.keys import (
    CODE_VERSIONS,
    checkpoints_prefix,
    manifest_path,
    resolve_keys,
    rows_prefix,
    stage_key,
    stage_prefix,
)
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.manifest import File, Manifest, Output, Report, content_digest
from evolution_jobs.contract.settings import ReflectionSettings, SftSettings
from evolution_jobs.contract.stage import Ahead, Node, RunRef, StageSpec
from evolution_jobs.contract.variables import STORAGE_PATIENCE_VARIABLE
from evolution_jobs.contract.workspace import Result, Workspace
from evolution_jobs.runner import run_stage
from evolution_jobs.store.base import Store
from evolution_jobs.store.file import FileStore
from evolution_jobs.store.manifests import corrupt_files, publish, read_manifest
from evolution_jobs.store.open import open_store
from evolution_jobs.store.s3 import S3Store
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stages import fake_stages
from tests.support.stages.runner import Runner
from tests.support.storage.servers import SECRET_KEY, free_port, s3_storage
from tests.unit.test_store import small_file_system

ROOT = Path(__file__).parents[2]


def manifest_of(storage: Storage, spec: StageSpec) -> Manifest:
    manifest = read_manifest(open_store(storage), spec.key)
    assert manifest is not None
    return manifest


def recorded(storage: Storage, name: str = "run", uid: str | None = None) -> dict[str, str]:
    """Stages that a run has recorded, with their keys."""
    prefix = f"runs/tests/{name}/{uid or f'uid-of-{name}'}/stages/"
    names = [location.removeprefix(prefix).split("/") for location, _ in open_store(storage).list(prefix)]
    return {stage: key.removesuffix(".json") for stage, key in names}


def never(_: Workspace) -> Result:
    raise AssertionError("the stage was run again")


# A run from end to end.


def test_each_stage_leaves_a_manifest_that_names_what_it_made_and_from_what(storage: Storage, run: Runner) -> None:
    contents = run.prepared(storage)
    assert set(contents) == {"train", "contexts", "model"}
    spec = fake_stages.spec(storage, "sft", contents)
    code, report = run(spec)
    assert (code, report.reason) == (0, "Completed")
    assert report.metrics == {"loss": 0.5}
    manifest = manifest_of(storage, spec)
    assert report.digest == manifest.outputs["adapter"].digest
    assert report.seconds == manifest.seconds > 0
    assert manifest.inputs == {"train": contents["train"], "model": contents["model"]}
    assert manifest.tokens == 7
    assert manifest.code["stage"] == str(CODE_VERSIONS["sft"])
    assert {"python", "evolution-operator"} <= set(manifest.code)
    files = manifest.outputs["adapter"].files
    assert [file.path for file in files] == ["adapter_model.safetensors", "nested/config.json"]
    assert manifest.outputs["adapter"].digest == content_digest((file.path, file.sha256) for file in files)
    assert corrupt_files(open_store(storage), manifest) == []


def test_nothing_but_what_a_manifest_names_is_left_of_a_stage(storage: Storage, run: Runner) -> None:
    contents = run.trained(storage)
    spec = fake_stages.spec(storage, "sft", contents)
    left = {location for location, _ in open_store(storage).list(stage_prefix(spec.key))}
    files = manifest_of(storage, spec).outputs["adapter"].files
    assert left == {manifest_path(spec.key), *(file.location for file in files)}


def test_a_published_stage_is_not_run_again(storage: Storage, run: Runner) -> None:
    contents = run.trained(storage)
    code, report = run(fake_stages.spec(storage, "sft", contents, attempt="a-2"), sft=never)
    assert (code, report.reason) == (0, "Cached")
    assert report.metrics == {"loss": 0.5}
    code, report = run(fake_stages.spec(storage, "prepare"), prepare=never)
    assert (code, report.reason) == (0, "Cached")
    assert report.contents == contents
    assert report.published == ["prepare", "sft"]


def test_another_run_finds_what_this_one_published(storage: Storage, run: Runner) -> None:
    contents = run.trained(storage)
    run(fake_stages.spec(storage, "evaluate-0", contents))
    nodes = fake_stages.graph(pins={"uid": "other"})
    code, report = run(fake_stages.spec(storage, "prepare", nodes=nodes, name="other"))
    assert (code, report.reason) == (0, "Completed")
    assert report.published == ["prepare", "sft", "evaluate-0"]
    assert report.figures == {"evaluate-0": {"bleu2_ref": 1.25}}
    assert recorded(storage, "other") == resolve_keys(nodes, report.contents)


def test_a_stage_whose_file_is_gone_is_not_reported_as_published_and_runs_again(storage: Storage, run: Runner) -> None:
    contents = run.trained(storage)
    spec = fake_stages.spec(storage, "sft", contents)
    open_store(storage).delete(manifest_of(storage, spec).outputs["adapter"].files[0].location)
    _, report = run(fake_stages.spec(storage, "prepare"))
    assert report.published == ["prepare"]
    code, report = run(spec)
    assert (code, report.reason) == (0, "Completed")
    assert corrupt_files(open_store(storage), manifest_of(storage, spec)) == []


def test_a_stage_is_recorded_before_it_begins(storage: Storage, run: Runner) -> None:
    contents = run.prepared(storage)
    keys = resolve_keys(fake_stages.graph(), contents)
    assert recorded(storage) == keys
    store = open_store(storage)
    store.delete("runs/")

    def looks(workspace: Workspace) -> Result:
        assert recorded(storage) == {"sft": keys["sft"]}
        return fake_stages.sft(workspace)

    assert run(fake_stages.spec(storage, "sft", contents), sft=looks)[0] == 0
    (record,) = (store.read(location) for location, _ in store.list("runs/tests/run/uid-of-run/"))
    assert record is not None
    assert json.loads(record) == {
        "run": {"namespace": "tests", "name": "run", "uid": "uid-of-run"},
        "stage": "sft",
        "kind": "sft",
        "iteration": 0,
    }


def test_a_stage_left_over_from_an_earlier_run_of_the_name_has_a_record_of_its_own(
    directory: Storage, run: Runner
) -> None:
    contents = run.trained(directory)
    before = recorded(directory)
    spec = fake_stages.spec(directory, "sft", contents)
    older = spec.model_copy(update={"run": spec.run.model_copy(update={"uid": "older"})})
    assert run(older)[0] == 0
    assert recorded(directory) == before
    assert recorded(directory, uid="older") == {"sft": spec.key}


# A model that is copied.


def copies_model(workspace: Workspace) -> Result:
    result = fake_stages.prepare(workspace)
    model = workspace.scratch / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights" * 1000)
    return Result(outputs={**result.outputs, "model": model}, copied_models=frozenset({"model"}))


def model_files(storage: Storage) -> dict[str, int]:
    return dict(open_store(storage).list("models/"))


def test_a_model_that_two_runs_copy_is_stored_once_and_recorded_by_both(
    storage: Storage, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, report = run(fake_stages.spec(storage, "prepare"), prepare=copies_model)
    assert code == 0, report
    digest = report.contents["model"]
    assert set(model_files(storage)) == {f"models/{digest}/config.json", f"models/{digest}/model.safetensors"}
    written: list[str] = []
    for kind in (FileStore, S3Store):
        put = kind.put_file
        monkeypatch.setattr(
            kind, "put_file", lambda self, local, at, put=put: (written.append(at), put(self, local, at))
        )
    other = fake_stages.spec(storage, "prepare", nodes=fake_stages.graph(pins={"run": "other"}), name="other")
    code, report = run(other, prepare=copies_model)
    assert (code, report.reason, report.contents["model"]) == (0, "Completed", digest)
    assert written
    assert not [location for location in written if location.startswith("models/")]
    manifest = manifest_of(storage, other)
    assert corrupt_files(open_store(storage), manifest) == []
    for name in ("run", "other"):
        assert open_store(storage).read(f"runs/tests/{name}/uid-of-{name}/models/{digest}.json")
    third = fake_stages.spec(storage, "prepare", name="third")
    assert run(third, prepare=never)[1].reason == "Cached"
    assert open_store(storage).read(f"runs/tests/third/uid-of-third/models/{digest}.json")


@pytest.mark.parametrize("damage", [b"Weights" * 1000, b"weights", None])
def test_a_copied_model_that_is_damaged_is_copied_again(storage: Storage, run: Runner, damage: bytes | None) -> None:
    first = fake_stages.spec(storage, "prepare")
    contents = run(first, prepare=copies_model)[1].contents
    sound = model_files(storage)
    (weights,) = (location for location in sound if location.endswith(".safetensors"))
    store = open_store(storage)
    store.delete(weights)
    if damage is not None:
        store.put_bytes(damage, weights)
    code, report = run(fake_stages.spec(storage, "sft", contents), sft=never)
    assert (code, report.reason, report.corrupt) == (EXIT_TRANSIENT, "InputCorrupt", "prepare")
    assert run(first, prepare=copies_model)[1].reason == "Completed"
    assert model_files(storage) == sound
    assert corrupt_files(store, manifest_of(storage, first)) == []


# What other versions have written.


def test_a_manifest_with_fields_of_a_newer_version_is_read(storage: Storage, run: Runner) -> None:
    contents = run.trained(storage)
    spec = fake_stages.spec(storage, "sft", contents)
    before, store = manifest_of(storage, spec), open_store(storage)
    document = before.wire()
    adapter = document["outputs"]["adapter"]
    for described in (document, document["run"], adapter, *adapter["files"]):
        described["fieldOfTomorrow"] = {"a": [1]}
    store.put_bytes(json.dumps(document).encode(), manifest_path(spec.key))
    assert manifest_of(storage, spec) == before
    assert run(spec, sft=never)[1].reason == "Cached"


def test_a_manifest_of_an_unknown_version_is_left_alone_and_named(storage: Storage, run: Runner) -> None:
    contents = run.trained(storage)
    spec, store = fake_stages.spec(storage, "sft", contents), open_store(storage)
    document = json.dumps({**manifest_of(storage, spec).wire(), "version": "evolution.run/manifest/v9"}).encode()
    store.put_bytes(document, manifest_path(spec.key))
    for stage in ("sft", "generate-1"):
        code, report = run(fake_stages.spec(storage, stage, contents))
        assert (code, report.reason) == (EXIT_PERMANENT, "ManifestUnknown")
        assert "evolution.run/manifest/v9" in report.message
    assert run(fake_stages.spec(storage, "prepare"))[1].published == ["prepare"]
    assert store.read(manifest_path(spec.key)) == document


def test_credentials_are_in_nothing_that_is_stored_or_said(
    storage: Storage, run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVOLUTION_TERMINATION_LOG", str(tmp_path / "termination-log"))
    contents = run.prepared(storage)
    code, report = run(fake_stages.spec(storage, "sft", contents))
    assert code == 0
    store = open_store(storage)
    stored = [store.read(location) for location, _ in store.list("")]
    said = [report.model_dump_json(), run.stderr, (tmp_path / "termination-log").read_text()]
    assert all(SECRET_KEY.encode() not in found for found in stored if found)
    assert all(SECRET_KEY not in text for text in said)


# Two attempts at once, and attempts that were killed.


def test_of_two_attempts_at_once_one_publishes_and_the_other_says_so(real_storage: Storage, run: Runner) -> None:
    contents = run.prepared(real_storage)
    spec = fake_stages.spec(real_storage, "sft", contents)
    ready = threading.Barrier(4)

    def together(workspace: Workspace) -> Result:
        adapter = workspace.scratch / "adapter"
        adapter.write_bytes(os.urandom(100))
        ready.wait()
        return Result(outputs={"adapter": adapter})

    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda _: run_stage(spec, fake_stages.stages(sft=together)), range(4)))
    assert codes == [0] * 4
    store = open_store(real_storage)
    manifest = manifest_of(real_storage, spec)
    assert corrupt_files(store, manifest) == []
    assert dict(store.list(stage_prefix(spec.key))).keys() == {
        manifest_path(spec.key),
        manifest.outputs["adapter"].files[0].location,
    }


def test_the_loser_of_the_race_reports_the_winners_result(directory: Storage, run: Runner) -> None:
    contents = run.prepared(directory)
    spec = fake_stages.spec(directory, "sft", contents)

    def overtaken(workspace: Workspace) -> Result:
        result = fake_stages.sft(workspace)
        run_stage(spec, fake_stages.stages())
        return Result(outputs=result.outputs, metrics={"loss": 99.0})

    code, report = run(spec, sft=lambda workspace: overtaken(workspace))
    assert (code, report.reason) == (0, "Cached")
    assert "published first" in report.message
    assert report.metrics == {"loss": 0.5}


@pytest.mark.parametrize(("stage", "step"), [("sft", 3), ("generate-1", 3)])
def test_a_stage_killed_anywhere_leaves_nothing_half_published_and_can_be_run_again(
    stage: str, step: int, directory: Storage
) -> None:
    kills = sweep(directory, stage, step)
    assert len(kills) > 20
    assert {kill["after"]["published"] for kill in kills} == {False, True}


@pytest.mark.minio
@pytest.mark.parametrize("stage", ["sft", "generate-1"])
def test_a_stage_killed_anywhere_on_s3_leaves_nothing_half_published(
    stage: str, minio: str, s3_environment: None
) -> None:
    kills = sweep(s3_storage(minio), stage, 7)
    assert len(kills) > 5
    assert {kill["after"]["published"] for kill in kills} == {False, True}


def sweep(storage: Storage, stage: str, step: int) -> list[dict[str, Any]]:
    """Kill the stage at every `step`-th point; what each kill left was sound, and one more run finished the stage."""
    arguments = [storage.model_dump_json(by_alias=True, exclude_none=True), stage, "1", str(step)]
    answer = subprocess.run(
        [sys.executable, "-m", "tests.support.stages.killed_stage", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    kills = [json.loads(line) for line in answer.stdout.splitlines()]
    for kill in kills[:-1]:
        assert kill["ended"] == -signal.SIGKILL
        assert kill["after"]["faults"] == []
        assert kill["again"] == 0
        assert kill["end"] == {"published": True, "faults": [], "unnamed": [], "recorded": True}
        assert kill["after"]["recorded"] or not kill["after"]["published"]
    assert kills[-1]["ended"] == 0
    return kills


class KillsWhenRead(UserDict[str, int]):
    """Counts that kill the process when the runner comes to read them: all files are uploaded then."""

    def keys(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_between_upload_and_publication_a_stage_is_not_published(storage: Storage, run: Runner) -> None:
    contents = run.prepared(storage)
    spec = fake_stages.spec(storage, "sft", contents)
    script = """
import sys
from evolution_jobs.contract.stage import StageSpec
from evolution_jobs.runner import run_stage
from evolution_jobs.contract.workspace import Result
from tests.support.stages import fake_stages
from tests.support.stages.runner import Runner
from tests.unit.test_runner import KillsWhenRead
def sft(workspace):
    return Result(outputs=fake_stages.sft(workspace).outputs, counts=KillsWhenRead())
run_stage(StageSpec.model_validate_json(sys.argv[1]), fake_stages.stages(sft=sft))
"""
    answer = subprocess.run(
        [sys.executable, "-c", script, spec.model_dump_json(by_alias=True, exclude_none=True)], cwd=ROOT
    )
    assert answer.returncode == -signal.SIGKILL
    store = open_store(storage)
    uploaded = [location for location, _ in store.list(f"{stage_prefix(spec.key)}attempts/")]
    assert len(uploaded) == 2
    assert read_manifest(store, spec.key) is None
    code, report = run(spec)
    assert (code, report.reason) == (0, "Completed")
    assert manifest_of(storage, spec).details == {"resumedAt": 3}
    assert not {location for location, _ in store.list(stage_prefix(spec.key))} & set(uploaded)


# Shards and rows.


def test_the_shard_that_comes_last_publishes(storage: Storage, run: Runner) -> None:
    contents = run.trained(storage)
    reports = [run(fake_stages.spec(storage, "generate-1", contents, shard=(index, 3))) for index in (2, 0, 1)]
    assert [(code, report.reason) for code, report in reports] == [
        (0, "ShardCompleted"),
        (0, "ShardCompleted"),
        (0, "Completed"),
    ]
    assert reports[0][1].counts == {"rows.appended": 4}
    spec = fake_stages.spec(storage, "generate-1", contents)
    assert manifest_of(storage, spec).counts == {"rows": 12, "rows.mine": 4}
    assert list(open_store(storage).list(rows_prefix(spec.key))) == []


def test_energy_is_told_by_a_process_that_has_done_all_of_its_stage(
    directory: Storage, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evolution_jobs.attempt.spent.Spent.joules", lambda _: 12.5)
    contents = run.trained(directory)
    assert manifest_of(directory, fake_stages.spec(directory, "sft", contents)).gpu_joules == 12.5
    specs = [fake_stages.spec(directory, "generate-1", contents, shard=(index, 2)) for index in (1, 0)]
    for spec in specs:
        run(spec)
    assert manifest_of(directory, specs[0]).gpu_joules is None


def test_shards_that_end_at_once_publish_one_result(real_storage: Storage, run: Runner) -> None:
    contents = run.trained(real_storage)
    ready = threading.Barrier(3)

    def together(workspace: Workspace) -> Result | None:
        append = workspace.rows.append

        def append_then_wait(rows: Any) -> None:
            append(rows)
            if workspace.rows.appended == 4:  # type: ignore[attr-defined]
                ready.wait()

        workspace.rows.append = append_then_wait  # type: ignore[method-assign]
        return fake_stages.generate(workspace)

    specs = [fake_stages.spec(real_storage, "generate-1", contents, shard=(index, 3)) for index in range(3)]
    with ThreadPoolExecutor(3) as pool:
        codes = list(pool.map(lambda spec: run_stage(spec, fake_stages.stages(generate=together)), specs))
    assert codes == [0] * 3
    assert corrupt_files(open_store(real_storage), manifest_of(real_storage, specs[0])) == []


def test_a_shard_that_comes_to_its_rows_after_the_stage_was_published_computes_none(
    storage: Storage, run: Runner
) -> None:
    contents = run.trained(storage)
    computed = []

    def late(workspace: Workspace) -> Result | None:
        # It has found the stage unpublished, and fetched its inputs in the meantime.
        assert run_stage(fake_stages.spec(storage, "generate-1", contents, shard=(0, 1)), fake_stages.stages()) == 0
        append = workspace.rows.append
        workspace.rows.append = lambda rows: (computed.append(1), append(rows))[1]  # type: ignore[method-assign]
        return fake_stages.generate(workspace)

    spec = fake_stages.spec(storage, "generate-1", contents, shard=(1, 2))
    code, report = run(spec, generate=late)
    assert (code, report.reason) == (0, "Cached")
    assert computed == []
    assert list(open_store(storage).list(rows_prefix(spec.key))) == []


def test_the_pod_of_an_indexed_job_takes_its_shard_from_the_environment(
    directory: Storage, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = run.trained(directory)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    seen: list[int] = []

    def shard(workspace: Workspace) -> None:
        seen.append(workspace.spec.shard.index)

    run(fake_stages.spec(directory, "generate-1", contents, shard=(0, 3)), generate=shard)
    assert seen == [2]
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    code, report = run(fake_stages.spec(directory, "generate-1", contents, shard=(0, 3)))
    assert (code, report.reason) == (EXIT_PERMANENT, "SpecInvalid")
    assert "shard.index" in report.message


def test_rows_that_are_finished_are_not_made_again(storage: Storage, run: Runner) -> None:
    contents = run.trained(storage)
    spec = fake_stages.spec(storage, "generate-1", contents)

    def dies(workspace: Workspace) -> Result:
        workspace.rows.append({"id": id_, "text": "from the first attempt"} for id_ in fake_stages.IDS[:5])
        raise ConnectionError("gone")

    assert run(spec, generate=dies)[0] == EXIT_TRANSIENT
    assert run(spec)[0] == 0
    manifest = manifest_of(storage, spec)
    assert manifest.counts["rows.mine"] == 7
    found = open_store(storage).read(manifest.outputs["responses"].files[0].location)
    assert found is not None
    texts = [json.loads(line)["text"] for line in found.splitlines()]
    assert texts == ["from the first attempt"] * 5 + [f"answer to {id_}" for id_ in fake_stages.IDS[5:]]


def test_a_corrupt_chunk_of_rows_is_removed_counted_and_made_again(storage: Storage, run: Runner) -> None:
    contents = run.trained(storage)
    run(fake_stages.spec(storage, "generate-1", contents, shard=(0, 2)))
    spec = fake_stages.spec(storage, "generate-1", contents)
    store = open_store(storage)
    chunk, _ = min(store.list(rows_prefix(spec.key)))
    store.put_bytes(b'{"id": "context-0", "text": "forged"}\n', chunk)
    assert run(spec)[0] == 0
    manifest = manifest_of(storage, spec)
    assert manifest.counts == {"rows": 12, "rows.mine": 8, "rows.corruptChunks": 1}
    responses = store.read(manifest.outputs["responses"].files[0].location)
    assert responses is not None
    assert b"forged" not in responses


# Rows of reflect that generate makes ahead.


def ahead_of(spec: StageSpec, contents: Mapping[str, str], **settings: Any) -> StageSpec:
    """The spec of generate with the reflect stage that reads its responses."""
    reflection = ReflectionSettings.model_validate(settings)
    inputs = {
        **({"reward-model": contents["reward-model"]} if reflection.reward and not reflection.reward.judge else {}),
        "contexts": contents["contexts"],
        "adapter": f"{spec.inputs['adapter'].key}/adapter",
        "responses": f"{spec.key}/responses",
    }
    key = stage_key("reflect", reflection, 5, inputs)
    return spec.model_copy(update={"ahead": Ahead(stage="reflect-1", key=key, settings=reflection, seed=5)})


def test_rows_ahead_are_the_reflect_stage_s_and_recorded_for_its_run(directory: Storage, run: Runner) -> None:
    contents = run.trained(directory)
    spec = ahead_of(fake_stages.spec(directory, "generate-1", contents), contents)
    assert spec.ahead is not None

    def makes_two_kinds(workspace: Workspace) -> Result | None:
        assert workspace.rows_ahead is not None
        workspace.rows_ahead.append([{"id": "context-0.digest"}])
        assert recorded(directory)["reflect-1"] == workspace.spec.ahead.key  # type: ignore[union-attr]
        return fake_stages.generate(workspace)

    assert run(spec, generate=makes_two_kinds)[0] == 0
    store = open_store(directory)
    assert list(StoredRows(store, spec.ahead.key).finished()) == ["context-0.digest"]
    assert manifest_of(directory, spec).key == spec.key
    other = ahead_of(spec, contents, temperature=0.5)
    assert other.ahead is not None
    assert StoredRows(store, other.ahead.key).finished() == {}


def test_rows_ahead_may_be_of_a_stage_that_reads_a_reward_model_as_well(directory: Storage, run: Runner) -> None:
    def with_reward_model(workspace: Workspace) -> Result:
        made = fake_stages.prepare(workspace)
        return replace(made, references={**made.references, "reward-model": "hf://owner/reward@0123456789"})

    contents = run(fake_stages.spec(directory, "prepare"), prepare=with_reward_model)[1].contents
    assert run(fake_stages.spec(directory, "sft", contents))[0] == 0
    spec = fake_stages.spec(directory, "generate-1", contents)
    other = {**contents, "reward-model": "f" * 64}
    code, report = run(ahead_of(spec, other, source="reward", reward={}))
    assert (code, report.reason) == (65, "KeyMismatch")
    assert run(ahead_of(spec, contents, source="reward", reward={}))[0] == 0
    judged = {"judge": {"url": "http://judge:8000/v1", "model": "large"}}
    assert run(ahead_of(spec, contents, source="reward", reward=judged))[0] == 0


def test_no_rows_are_made_ahead_for_a_published_stage(directory: Storage, run: Runner) -> None:
    contents = run.trained(directory)
    spec = ahead_of(fake_stages.spec(directory, "generate-1", contents), contents)
    assert spec.ahead is not None
    given: list[object] = []

    def looks(workspace: Workspace) -> Result | None:
        given.append(workspace.rows_ahead)
        return fake_stages.generate(workspace)

    published = manifest_of(directory, fake_stages.spec(directory, "sft", contents))
    reflect = {"key": spec.ahead.key, "kind": "reflect", "stage": "reflect-1", "outputs": {}}
    assert publish(open_store(directory), published.model_copy(update=reflect))
    assert run(spec, generate=looks)[0] == 0
    assert given == [None]


def test_a_corrupt_chunk_of_rows_ahead_is_counted(directory: Storage, run: Runner) -> None:
    contents = run.trained(directory)
    spec = ahead_of(fake_stages.spec(directory, "generate-1", contents), contents)
    assert spec.ahead is not None
    open_store(directory).put_bytes(b"{}", f"{rows_prefix(spec.ahead.key)}{'0' * 64}.jsonl")

    def looks(workspace: Workspace) -> Result | None:
        assert workspace.rows_ahead is not None
        assert workspace.rows_ahead.finished() == {}
        return fake_stages.generate(workspace)

    assert run(spec, generate=looks)[0] == 0
    assert manifest_of(directory, spec).counts["rows.corruptChunks"] == 1


def test_a_key_ahead_that_does_not_follow_from_its_settings_is_refused(directory: Storage, run: Runner) -> None:
    contents = run.trained(directory)
    spec = ahead_of(fake_stages.spec(directory, "generate-1", contents), contents)
    assert spec.ahead is not None
    wrong = spec.model_copy(update={"ahead": spec.ahead.model_copy(update={"seed": 6})})
    code, report = run(wrong, generate=never)
    assert (code, report.reason) == (EXIT_PERMANENT, "KeyMismatch")
    assert "ahead.key" in report.message


def test_a_stage_that_is_not_sharded_must_return_a_result(directory: Storage, run: Runner) -> None:
    contents = run.prepared(directory)
    code, report = run(fake_stages.spec(directory, "sft", contents), sft=lambda _: None)
    assert (code, report.reason) == (EXIT_TRANSIENT, "InternalError")


# Checkpoints.


def test_training_goes_on_from_its_last_checkpoint(storage: Storage, run: Runner) -> None:
    contents = run.prepared(storage)
    spec = fake_stages.spec(storage, "sft", contents)

    def stopped(workspace: Workspace) -> Result:
        state = workspace.scratch / "state"
        (state / "state").mkdir(parents=True)
        for step in (1, 2):
            (state / "state" / "step").write_text(str(step))
            workspace.checkpoints.save(state, step)
        raise Terminated

    code, report = run(spec, sft=stopped)
    assert (code, report.reason) == (EXIT_TERMINATED, "Terminated")
    below = checkpoints_prefix(spec.key)
    kept = {location.removeprefix(below)[:8] for location, _ in open_store(storage).list(below)}
    assert kept == {"00000002"}
    assert run(spec)[0] == 0
    assert manifest_of(storage, spec).details == {"resumedAt": 2}


def saved(store: Store, tmp_path: Path, attempt: str, step: int) -> None:
    state = tmp_path / f"{attempt}-{step}"
    state.mkdir()
    (state / "step").write_text(str(step))
    checkpoints.StoredCheckpoints(store, "k", attempt, tmp_path / "scratch").save(state, step)


def latest(store: Store, tmp_path: Path) -> tuple[str | None, int]:
    found = checkpoints.StoredCheckpoints(store, "k", "reader", tmp_path / "scratch")
    path = found.latest()
    return (path / "step").read_text() if path else None, found.corrupt


def test_a_checkpoint_without_its_index_does_not_count(storage: Storage, tmp_path: Path) -> None:
    store = open_store(storage)
    assert latest(store, tmp_path) == (None, 0)
    saved(store, tmp_path, "a", 1)
    store.put_bytes(b"2", "stages/k/checkpoints/00000002-a/files/step")
    assert latest(store, tmp_path) == ("1", 0)


@pytest.mark.parametrize(
    ("location", "data"),
    [
        ("files/step", b"forged"),
        ("files/step", None),
        ("index.json", b"no JSON"),
        ("index.json", b'[{"path": "../../step", "sha256": "%s", "size": 1}]' % (b"0" * 64)),
    ],
)
def test_a_corrupt_checkpoint_is_passed_over_for_an_older_one(
    storage: Storage, tmp_path: Path, location: str, data: bytes | None
) -> None:
    store = open_store(storage)
    saved(store, tmp_path, "b", 5)
    saved(store, tmp_path, "a", 3)
    damaged = f"stages/k/checkpoints/00000005-b/{location}"
    if data is None:
        store.delete(damaged)
    else:
        store.put_bytes(data, damaged)
    assert latest(store, tmp_path) == ("3", 1)


# Inputs.


@pytest.mark.parametrize("damage", ["changed", "removed"])
def test_a_corrupt_input_is_named_withdrawn_and_made_again(storage: Storage, run: Runner, damage: str) -> None:
    contents = run.trained(storage)
    upstream = fake_stages.spec(storage, "sft", contents)
    store = open_store(storage)
    file = manifest_of(storage, upstream).outputs["adapter"].files[0]
    if damage == "changed":
        store.put_bytes(b"x" * file.size, file.location)
    else:
        store.delete(file.location)
    spec = fake_stages.spec(storage, "generate-1", contents)
    code, report = run(spec)
    assert (code, report.reason, report.corrupt) == (EXIT_TRANSIENT, "InputCorrupt", "sft")
    assert file.location in report.message
    if damage == "changed":
        assert file.sha256 in report.message
        assert (store.sha256(file.location) or "absent") in report.message
    assert read_manifest(store, upstream.key) is None
    assert len(list(store.list(f"{stage_prefix(upstream.key)}retracted/"))) == 1
    assert [run(each)[1].reason for each in (upstream, spec)] == ["Completed", "Completed"]


def test_an_unreadable_manifest_of_an_input_is_withdrawn(storage: Storage, run: Runner) -> None:
    contents = run.trained(storage)
    upstream = fake_stages.spec(storage, "sft", contents)
    open_store(storage).put_bytes(b'{"key": 1}', manifest_path(upstream.key))
    code, report = run(fake_stages.spec(storage, "generate-1", contents))
    assert (code, report.reason, report.corrupt) == (EXIT_TRANSIENT, "InputCorrupt", "sft")
    assert run(upstream)[1].reason == "Completed"


def test_an_input_that_is_not_published_names_the_stage_that_must_run(storage: Storage, run: Runner) -> None:
    contents = run.prepared(storage)
    code, report = run(fake_stages.spec(storage, "generate-1", contents))
    assert (code, report.reason, report.corrupt) == (EXIT_TRANSIENT, "InputMissing", "sft")
    assert "stage sft must run first" in report.message


def test_a_manifest_that_points_elsewhere_is_refused(storage: Storage, run: Runner) -> None:
    contents = run.trained(storage)
    upstream = fake_stages.spec(storage, "sft", contents)
    store = open_store(storage)
    document = manifest_of(storage, upstream).wire()
    document["outputs"]["adapter"]["files"][0] |= {"path": "../../stolen", "location": "runs/tests/run/run.json"}
    store.put_bytes(json.dumps(document).encode(), manifest_path(upstream.key))
    code, report = run(fake_stages.spec(storage, "generate-1", contents))
    assert (code, report.reason) == (EXIT_TRANSIENT, "InputCorrupt")


def test_a_file_of_the_store_is_read_in_place(directory: Storage, run: Runner) -> None:
    contents = run.prepared(directory)
    seen: list[Path] = []

    def look(workspace: Workspace) -> Result:
        seen.extend(path.resolve() for path in workspace.input("train").iterdir())
        return fake_stages.sft(workspace)

    run(fake_stages.spec(directory, "sft", contents), sft=look)
    store = open_store(directory)
    assert isinstance(store, FileStore)
    assert seen[0].is_relative_to(store.root)


# What a spec may get wrong.


def test_a_spec_edited_by_hand_is_refused_even_where_its_key_is_published(directory: Storage, run: Runner) -> None:
    contents = run.trained(directory)
    spec = fake_stages.spec(directory, "sft", contents)
    code, report = run(spec.model_copy(update={"settings": SftSettings(learning_rate=0.5)}))
    assert (code, report.reason) == (EXIT_PERMANENT, "KeyMismatch")
    keys = resolve_keys(fake_stages.graph({"learningRate": 0.5}), contents)
    assert keys["sft"] in report.message


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["evolution_jobs", *arguments])
    return command.main()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("", "JSON"),
        ("{", "JSON"),
        ("\xff", "JSON"),
        ("{}", "key: Field required"),
        ("[]", "object"),
    ],
)
def test_a_spec_that_cannot_be_read_is_one_line(
    text: str | None,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "stage.json"
    if text is not None:
        path.write_text(text, "latin-1")
    assert call(monkeypatch, "sft", "--spec", str(path)) == EXIT_PERMANENT
    report = Report.model_validate_json(capsys.readouterr().out)
    assert report.reason == "SpecInvalid"
    assert words in report.message
    assert str(path) in report.message


def test_every_faulty_field_of_a_spec_is_named_and_nothing_is_written(
    directory: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = fake_stages.spec(directory, "sft", dict.fromkeys(("train", "contexts", "model"), "0" * 64)).wire()
    spec |= {"settings": {"learningRate": -1, "lora": {"r": 0}, "betta": 1}, "sead": 1}
    spec["graph"] = [
        {"id": "dpo-1", "kind": "dpo", "settings": {"gamma": 2}, "seed": 0},
        {"id": "prepare", "kind": "prepare", "settings": {"seedData": [], "baseModel": {"uri": "hf://a/b"}}, "seed": 0},
    ]
    path = tmp_path / "stage.json"
    path.write_text(json.dumps(spec))
    assert call(monkeypatch, "sft", "--spec", str(path)) == EXIT_PERMANENT
    said = capsys.readouterr()
    report = Report.model_validate_json(said.out)
    assert report.reason == "SpecInvalid"
    for fault in (
        "settings.learningRate: Input should be greater than 0",
        "settings.lora.r: Input should be greater than or equal to 1",
        "settings.betta: Extra inputs are not permitted",
        "graph.0.settings.gamma: Extra inputs are not permitted",
        "graph.1.settings.seedData: List should have at least 1 item",
        "sead: Extra inputs are not permitted",
    ):
        assert fault in report.message
    assert "Traceback" not in said.err
    assert not (tmp_path / "storage").exists()


def test_a_spec_of_an_unknown_kind_is_blamed_for_its_kind_alone(
    tmp_path: Path, directory: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stage.json"
    path.write_text(json.dumps({**fake_stages.spec(directory, "prepare").wire(), "kind": "reward"}))
    assert call(monkeypatch, "sft", "--spec", str(path)) == EXIT_PERMANENT
    message = Report.model_validate_json(capsys.readouterr().out).message
    assert message.startswith(f"stage spec {path}: kind: Input should be 'prepare'")
    assert "settings" not in message


def test_a_spec_for_another_kind_is_refused(
    directory: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stage.json"
    path.write_text(fake_stages.spec(directory, "prepare").model_dump_json(by_alias=True, exclude_none=True))
    monkeypatch.setenv("EVOLUTION_STAGE_SPEC", str(path))
    assert call(monkeypatch, "sft") == EXIT_PERMANENT
    assert "kind:" in Report.model_validate_json(capsys.readouterr().out).message


def test_a_spec_is_read_from_stdin(
    directory: Storage, run: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = run.trained(directory)
    text = fake_stages.spec(directory, "sft", contents).model_dump_json(by_alias=True, exclude_none=True)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    capsys.readouterr()
    assert call(monkeypatch, "sft", "--spec", "-") == 0
    assert Report.model_validate_json(capsys.readouterr().out).reason == "Cached"


def test_an_unknown_kind_is_a_permanent_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, "train")
    assert caught.value.code == EXIT_PERMANENT


# How failures end.


class OutOfMemoryError(RuntimeError):
    """Named like torch.cuda.OutOfMemoryError."""


def caused(error: Exception, cause: Exception) -> Exception:
    """The error as a library raises it from another."""
    error.__cause__ = cause
    return error


FAILURES: list[tuple[BaseException, int, str, str]] = [
    (PermanentError("BadData", "row 3: empty"), EXIT_PERMANENT, "BadData", "row 3: empty"),
    (TransientError("HubDown", "try later"), EXIT_TRANSIENT, "HubDown", "try later"),
    (Terminated(), EXIT_TERMINATED, "Terminated", "saved"),
    (KeyboardInterrupt(), EXIT_TERMINATED, "Terminated", "stopped"),
    (MemoryError(), EXIT_TRANSIENT, "OutOfMemory", "sft.batchSize"),
    (OutOfMemoryError("CUDA out of memory"), EXIT_TRANSIENT, "OutOfMemory", "sft.batchSize"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), EXIT_TRANSIENT, "OutOfMemory", "sft.batchSize"),
    (OSError(errno.ENOSPC, "No space left on device", "/data/x"), EXIT_TRANSIENT, "DiskFull", "/data/x"),
    (RuntimeError("I/O error: No space left on device (os error 28)"), EXIT_TRANSIENT, "DiskFull", "no space left"),
    (
        ValueError("two\nlines \udcff"),
        EXIT_PERMANENT,
        "InternalError",
        "ValueError: two lines \\udcff; the next attempt",
    ),
    (IndexError("index out of range in self"), EXIT_PERMANENT, "InternalError", "log has the traceback"),
    (KeyError("name"), EXIT_PERMANENT, "InternalError", "KeyError: 'name'"),
    (TypeError("no len()"), EXIT_PERMANENT, "InternalError", "TypeError"),
    (AttributeError("no attribute"), EXIT_PERMANENT, "InternalError", "AttributeError"),
    (ZeroDivisionError("by zero"), EXIT_PERMANENT, "InternalError", "ZeroDivisionError"),
    (AssertionError(), EXIT_PERMANENT, "InternalError", "AssertionError"),
    (NotImplementedError("not on this device"), EXIT_PERMANENT, "InternalError", "NotImplementedError"),
    (caused(ValueError("no such cache"), FileNotFoundError("cache")), EXIT_PERMANENT, "InternalError", "no such cache"),
    (RuntimeError("CUDA error: unspecified launch failure"), EXIT_TRANSIENT, "InternalError", "CUDA error"),
    (ConnectionResetError("reset by peer"), EXIT_TRANSIENT, "InternalError", "reset by peer"),
    (caused(ValueError("cannot load"), TimeoutError("timed out")), EXIT_TRANSIENT, "InternalError", "cannot load"),
    (caused(KeyError("a"), ConnectionRefusedError("refused")), EXIT_TRANSIENT, "InternalError", "KeyError"),
    (json.JSONDecodeError("end of file", "{", 1), EXIT_TRANSIENT, "InternalError", "end of file"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "cut"), EXIT_TRANSIENT, "InternalError", "UnicodeDecodeError"),
    (SystemExit(3), EXIT_TRANSIENT, "InternalError", "SystemExit: 3"),
]


@pytest.mark.parametrize(
    ("error", "exit_code", "reason", "words"), FAILURES, ids=[f"{words[2]}-{row}" for row, words in enumerate(FAILURES)]
)
def test_how_a_failure_ends(
    error: BaseException,
    exit_code: int,
    reason: str,
    words: str,
    directory: Storage,
    run: Runner,
    caplog: pytest.LogCaptureFixture,
) -> None:
    contents = run.prepared(directory)

    def fails(_: Workspace) -> Result:
        raise error

    code, report = run(fake_stages.spec(directory, "sft", contents), sft=fails)
    assert (code, report.reason) == (exit_code, reason)
    assert words in report.message
    assert "\n" not in report.message
    assert ("Traceback" in caplog.text) == (reason == "InternalError")


def test_a_disk_that_is_full_while_a_stage_writes_is_said(directory: Storage, run: Runner) -> None:
    contents = run.prepared(directory)

    def fills(_: Workspace) -> Result:
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)
        raise AssertionError

    code, report = run(fake_stages.spec(directory, "sft", contents), sft=fills)
    assert (code, report.reason) == (EXIT_TRANSIENT, "DiskFull")


def test_storage_that_fills_up_leaves_nothing_published(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    script = """
import sys
from evolution_jobs.contract.locations import Storage
from evolution_jobs.runner import run_stage
from evolution_jobs.contract.workspace import Result
from evolution_jobs.store.manifests import read_manifest
from evolution_jobs.store.open import open_store
from tests.support.stages import fake_stages
from tests.support.stages.runner import Runner
def prepare(workspace):
    large = workspace.scratch / "large"
    large.write_bytes(bytes(2 << 20))
    return Result(outputs={"train": large})
storage = Storage(uri=sys.argv[1])
spec = fake_stages.spec(storage, "prepare")
code = run_stage(spec, fake_stages.stages(prepare=prepare))
assert read_manifest(open_store(storage), spec.key) is None
assert list(open_store(storage).list("stages/")) == []
sys.exit(code)
"""
    wrapper = small_file_system(tmp_path / "small", "1m")
    command_line = [*wrapper, sys.executable, "-c", script, (tmp_path / "small").as_uri()]
    answer = subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == EXIT_TRANSIENT, answer.stderr
    report = Report.model_validate_json(answer.stdout.splitlines()[-1])
    assert report.reason == "DiskFull"
    assert str(tmp_path / "small") in report.message


@pytest.mark.usefixtures("s3_environment")
def test_storage_that_cannot_be_reached_may_be_tried_again(run: Runner) -> None:
    storage = Storage(uri="s3://some-bucket", endpoint=f"http://127.0.0.1:{free_port()}")
    code, report = run(fake_stages.spec(storage, "prepare"))
    assert (code, report.reason) == (EXIT_TRANSIENT, "StorageUnreachable")


@pytest.mark.usefixtures("s3_environment")
def test_a_storage_that_other_stages_have_used_is_waited_for(
    run: Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(STORAGE_PATIENCE_VARIABLE, "1.5")
    storage = Storage(uri="s3://some-bucket", endpoint=f"http://127.0.0.1:{free_port()}")
    contents = dict.fromkeys(("model", "train", "contexts"), "a" * 64)
    code, report = run(fake_stages.spec(storage, "sft", contents))
    assert (code, report.reason) == (EXIT_TRANSIENT, "StorageUnreachable")
    assert "no answer from the storage" in caplog.text


def test_a_directory_that_cannot_be_made_is_said_at_once(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    """It is read as empty first, which an S3 service that is there says, too."""
    code, report = run(fake_stages.spec(Storage(uri="file:///proc/evolution"), "prepare"))
    assert code == EXIT_TRANSIENT
    assert "/proc/evolution" in report.message
    assert "waiting" not in caplog.text


@pytest.mark.minio
@pytest.mark.usefixtures("s3_environment")
def test_wrong_credentials_are_permanent(minio: str, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = s3_storage(minio)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-wrong-wrong")
    code, report = run(fake_stages.spec(storage, "prepare"))
    assert (code, report.reason) == (EXIT_PERMANENT, "StorageDenied")


def test_figures_that_are_not_finite_are_left_out_and_counted(directory: Storage, run: Runner) -> None:
    contents = run.prepared(directory)

    def diverges(workspace: Workspace) -> Result:
        result = fake_stages.sft(workspace)
        return Result(
            outputs=result.outputs,
            metrics={"loss": float("nan"), "steps": 3},
            details={"curve": [1.0, float("inf")], "best": None},
        )

    spec = fake_stages.spec(directory, "sft", contents)
    code, report = run(spec, sft=diverges)
    assert code == 0
    assert report.metrics == {"steps": 3}
    assert report.counts == {"metrics.notFinite": 1}
    assert manifest_of(directory, spec).details == {"curve": [1.0, None], "best": None}


# Signals, progress, scratch.

WAITS = """
import sys
from evolution_jobs.contract.stage import StageSpec
from evolution_jobs.runner import run_stage
from tests.support.stages import fake_stages
from tests.support.stages.runner import Runner
def sft(workspace):
    workspace.progress(1, 3, "steps")
    while True:
        {loop}
sys.exit(run_stage(StageSpec.model_validate_json(sys.argv[1]), fake_stages.stages(sft=sft)))
"""


def waiting(spec: StageSpec, loop: str, temporary: Path) -> subprocess.Popen[str]:
    """A process whose stage has reported progress and now runs `loop` over and over."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS.format(loop=loop), spec.model_dump_json(by_alias=True, exclude_none=True)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["progress"]["done"] == 1
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_a_stage_stops_at_its_next_check(
    number: signal.Signals, directory: Storage, run: Runner, tmp_path: Path
) -> None:
    spec = fake_stages.spec(directory, "sft", run.prepared(directory))
    process = waiting(spec, "workspace.check_stop()", tmp_path)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_TERMINATED
    assert Report.model_validate_json(out).reason == "Terminated"
    assert list(tmp_path.glob(f"{scratch.PREFIX}*")) == []


def test_interrupted_twice_a_stage_that_does_not_check_ends_too(
    directory: Storage, run: Runner, tmp_path: Path
) -> None:
    spec = fake_stages.spec(directory, "sft", run.prepared(directory))
    loop = "workspace.stopping and workspace.progress(2, 2, 'steps')"
    process = waiting(spec, loop, tmp_path)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["progress"]["done"] == 2
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == EXIT_TERMINATED
    assert Report.model_validate_json(out.splitlines()[-1]).reason == "Terminated"


def test_a_stage_whose_reader_is_gone_stops(directory: Storage, run: Runner, tmp_path: Path) -> None:
    spec = fake_stages.spec(directory, "sft", run.prepared(directory))
    process = waiting(spec, "workspace.progress(3, 3, 'steps'); workspace.check_stop()", tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) == EXIT_TERMINATED


def test_scratch_of_a_killed_process_is_removed_by_the_next_and_that_of_a_live_one_is_not(
    directory: Storage, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = fake_stages.spec(directory, "sft", run.prepared(directory))
    killed, alive = (waiting(spec, "__import__('signal').pause()", tmp_path) for _ in range(2))
    assert len(list(tmp_path.glob(f"{scratch.PREFIX}*{scratch.LOCK}"))) == 2
    killed.kill()
    killed.wait()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run(spec)[0] == 0
    assert len(list(tmp_path.glob(f"{scratch.PREFIX}*{scratch.LOCK}"))) == 1
    alive.kill()
    alive.wait()


@pytest.mark.parametrize(("unit", "told"), [("rows", [1, 6, 11, 13]), ("parts", list(range(1, 14)))])
def test_progress_is_said_at_most_twice_a_second_and_at_the_end(
    directory: Storage, run: Runner, monkeypatch: pytest.MonkeyPatch, unit: str, told: list[int]
) -> None:
    """Of parts each: the last before the model, which takes long, was left out."""
    contents = run.prepared(directory)
    clock = iter(number / 10 for number in range(1000))

    def counts(workspace: Workspace) -> Result:
        with monkeypatch.context() as patch:
            patch.setattr(workspace_module.time, "monotonic", lambda: next(clock))
            for done in range(1, 14):
                workspace.progress(done, 13, unit)
        raise Terminated

    run(fake_stages.spec(directory, "sft", contents), sft=counts)
    assert [line["done"] for line in run.progress] == told
    assert run.progress[0] == {"stage": "sft", "shard": 0, "done": 1, "total": 13, "unit": unit}


def test_a_termination_log_that_cannot_be_written_does_not_fail_the_stage(
    directory: Storage, run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVOLUTION_TERMINATION_LOG", str(tmp_path))
    assert run(fake_stages.spec(directory, "prepare"))[0] == 0


# Documents.

TEXT = st.text(max_size=40)
DIGEST = st.binary(min_size=32, max_size=32).map(bytes.hex)
NUMBERS = st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=60)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
PATHS = st.lists(st.from_regex(r"\A[a-zA-Z0-9_-]{1,8}\Z"), min_size=1, max_size=3).map("/".join)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    key, attempt = draw(DIGEST), draw(st.from_regex(r"\A[a-z0-9]{1,9}\Z"))
    outputs = {}
    for name in draw(st.lists(st.from_regex(r"\A[a-zA-Z]{1,9}\Z"), unique=True, max_size=3)):
        files = [
            File(
                path=path,
                location=f"stages/{key}/attempts/{attempt}/{name}/{path}",
                sha256=draw(DIGEST),
                size=draw(st.integers(0, 2**40)),
            )
            for path in draw(st.lists(PATHS, unique=True, max_size=3))
        ]
        digest = content_digest((file.path, file.sha256) for file in files) if files else draw(DIGEST)
        outputs[name] = Output(digest=digest, reference=draw(st.none() | TEXT), files=files)
    return Manifest(
        key=key,
        kind=draw(st.sampled_from(["prepare", "sft", "dpo"])),
        stage=draw(st.sampled_from(["prepare", "sft", "dpo-12"])),
        iteration=draw(st.none() | st.integers(0, 9)),
        run=RunRef(namespace=draw(TEXT), name=draw(TEXT), uid=draw(TEXT)),
        attempt=attempt,
        outputs=outputs,
        inputs=draw(st.dictionaries(TEXT, DIGEST, max_size=3)),
        settings=draw(st.dictionaries(TEXT, JSON_VALUES, max_size=3)),
        seed=draw(st.integers(0, 2**31)),
        code=draw(st.dictionaries(TEXT, TEXT, max_size=3)),
        counts=draw(st.dictionaries(TEXT, st.integers(0, 2**40), max_size=3)),
        metrics=draw(NUMBERS),
        details=draw(st.dictionaries(TEXT, JSON_VALUES, max_size=3)),
        seconds=draw(st.floats(0, 1e6)),
    )


@settings(deadline=None)
@given(manifest=manifests())
def test_a_manifest_comes_back_as_it_was_published(manifest: Manifest) -> None:
    with tempfile.TemporaryDirectory() as root:
        store = FileStore(Path(root))
        assert publish(store, manifest) == manifest
        assert read_manifest(store, manifest.key) == manifest


@settings(deadline=None)
@given(
    report=st.builds(
        Report,
        reason=st.sampled_from(["Completed", "InputCorrupt"]),
        message=st.text(max_size=6000),
        key=st.none() | DIGEST,
        metrics=NUMBERS,
        counts=st.dictionaries(TEXT, st.integers(), max_size=60),
        seconds=st.floats(0, 1e6),
        contents=st.dictionaries(TEXT, DIGEST, max_size=6),
        published=st.lists(TEXT, max_size=60),
        figures=st.dictionaries(TEXT, NUMBERS, max_size=10),
        digest=st.none() | DIGEST,
        corrupt=st.none() | TEXT,
    )
)
def test_a_report_always_fits_and_keeps_what_decisions_hang_on(report: Report) -> None:
    data = trimmed(report)
    assert len(data) <= TERMINATION_LIMIT
    kept = Report.model_validate_json(data)
    for field in ("reason", "key", "contents", "digest", "corrupt", "seconds"):
        assert getattr(kept, field) == getattr(report, field)
    assert kept.published == report.published[: len(kept.published)]
    assert kept.metrics.items() <= report.metrics.items()


def test_the_report_of_a_large_run_names_no_published_stage_without_its_figures(
    directory: Storage, run: Runner
) -> None:
    """Fifty stages after prepare, ten of them evaluations with nine figures each. A stage that it leaves out starts, finds
    its result and reports it.
    """
    kinds = ("generate", "reflect", "dpo", "evaluate", "sft")
    nodes = fake_stages.graph()[:1] + [
        Node(
            id=f"{kind}-{number}",
            kind=kind,  # type: ignore[arg-type]
            iteration=number,
            settings={},
            seed=number,
            inputs={"model": "prepare/model"},
        )
        for number in range(10)
        for kind in kinds
    ]

    def six(workspace: Workspace) -> Result:
        names = ("train", "contexts", "replay", "validation", "test")
        files = {name: workspace.scratch / name for name in names}
        for path in files.values():
            path.write_text(path.name)
        return Result(outputs=files, references={"model": "hf://owner/model@0123456789"})

    spec = fake_stages.spec(directory, "prepare", nodes=nodes)
    _, report = run(spec, prepare=six)
    store = open_store(directory)
    example = manifest_of(directory, spec)
    figures = dict.fromkeys(list(KINDS)[:9], 12.345678901234567)
    for id_, key in resolve_keys(nodes, report.contents).items():
        if id_ != "prepare":
            publish(store, example.model_copy(update={"key": key, "outputs": {}, "metrics": figures}))
    _, report = run(spec)
    assert len(report.published) == 51
    assert len(report.figures) == 10
    kept = Report.model_validate_json(trimmed(report))
    left_out = set(report.published) - set(kept.published)
    assert left_out == set(report.figures) - set(kept.figures), "only evaluations, and only for want of room"
    assert 0 < len(left_out) < 10
    assert kept.contents == report.contents
    assert len(kept.contents) == 6
