"""The model cache: a model is fetched once for each volume, and never half of it or another one."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.attempt.model_cache import ABANDONED, ModelCache
from evolution_jobs.contract.errors import EXIT_PERMANENT, PermanentError
from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.stage import Input, Node, RunRef, Shard, StageSpec
from evolution_jobs.contract.variables import HUB_CACHE_VARIABLE, MODEL_CACHE_VARIABLE, NODE_VARIABLE
from evolution_jobs.contract.workspace import Result, Workspace
from evolution_jobs.models.hub_errors import explain
from evolution_jobs.runner import Stage, run_stage
from evolution_jobs.stages import prewarm
from evolution_jobs.store import s3_bucket
from evolution_jobs.store.base import Watch
from evolution_jobs.store.manifests import read_manifest
from evolution_jobs.store.open import open_store
from evolution_jobs.store.s3 import S3Store

from tests.support.stages.least_settings import PREPARE
from tests.support.stages.model_directory import model_directory
from tests.support.stages.workspace import LocalWorkspace
from tests.support.storage.fake_hub import COMMIT, Hub, hub_in_place
from tests.support.storage.servers import s3_storage

WEIGHTS = {"model.safetensors": b"weights" * 10_000, "config.json": b"{}"}
PREWARM = {"volume": "pvc://models", "pins": {"run": "uid"}}
GRAPH = [
    Node(id="prepare", kind="prepare", settings=PREPARE, seed=0),
    Node(id="prewarm", kind="prewarm", settings=PREWARM, seed=0, inputs={"model": "prepare/model"}),
    Node(id="sft", kind="sft", iteration=0, settings={}, seed=0, inputs={"model": "prepare/model"}, after=["prewarm"]),
]


def prepare(workspace: Workspace) -> Result:
    model = workspace.scratch / "model"
    model.mkdir()
    for name, data in WEIGHTS.items():
        (model / name).write_bytes(data)
    return Result(outputs={"model": model}, copied_models=frozenset({"model"}))


class Cluster:
    """Runs stages whose Pods share a cache."""

    def __init__(self, storage: Storage, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.storage, self.cache = storage, cache
        self.fetched: list[str] = []
        self.seen: dict[str, bytes] = {}
        get_file = S3Store.get_file

        def counted(store: S3Store, location: str, *given: Any) -> None:
            self.fetched.append(location.rpartition("/")[2])
            get_file(store, location, *given)

        monkeypatch.setattr(S3Store, "get_file", counted)
        monkeypatch.setenv(MODEL_CACHE_VARIABLE, str(cache))
        assert self.run("prepare", prepare) == 0
        manifest = read_manifest(open_store(storage), resolve_keys(GRAPH, None)["prepare"])
        assert manifest is not None
        self.contents = manifest.contents
        self.keys = resolve_keys(GRAPH, self.contents)

    def run(self, stage: str, code: Stage, shard: Shard | None = None, attempt: str = "a-1") -> int:
        keys = resolve_keys(GRAPH, None if stage == "prepare" else self.contents)
        node = next(node for node in GRAPH if node.id == stage)
        inputs = {"model": Input(stage="prepare", key=keys["prepare"], output="model")} if node.inputs else {}
        spec = StageSpec(
            run=RunRef(namespace="tests", name="run", uid="uid"),
            stage=stage,
            kind=node.kind,
            key=keys[stage],
            attempt=attempt,
            settings=node.settings,
            seed=0,
            inputs=inputs,
            storage=self.storage,
            shard=shard or Shard(),
            graph=GRAPH if stage == "prepare" else [],
        )
        return run_stage(spec, lambda _: code)

    def look(self, workspace: Workspace) -> Result:
        """A stage that reads the model."""
        self.seen = {path.name: path.read_bytes() for path in workspace.input("model").iterdir()}
        raise RuntimeError("it has seen enough")


@pytest.fixture
def cluster(moto: str, s3_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(s3_storage(moto), tmp_path / "cache", monkeypatch)


def test_after_prewarm_no_stage_fetches_the_model(cluster: Cluster) -> None:
    assert cluster.run("prewarm", prewarm.run) == 0
    assert sorted(cluster.fetched) == sorted(WEIGHTS)
    manifest = read_manifest(open_store(cluster.storage), cluster.keys["prewarm"])
    assert manifest is not None
    assert manifest.counts == {"nodes": 1, "files": 2, "bytes": sum(map(len, WEIGHTS.values()))}
    for _ in range(2):
        cluster.run("sft", cluster.look)
        assert cluster.seen == WEIGHTS
    assert len(cluster.fetched) == len(WEIGHTS)


def test_a_stage_on_a_cold_node_fills_its_cache(cluster: Cluster) -> None:
    cluster.run("sft", cluster.look)
    assert cluster.seen == WEIGHTS
    assert sorted(path.read_bytes() for path in (cluster.cache / "files").iterdir()) == sorted(WEIGHTS.values())


def test_a_changed_file_of_the_cache_is_fetched_again(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.run("sft", cluster.look)
    for path in (cluster.cache / "files").iterdir():
        data = bytearray(path.read_bytes())
        data[0] ^= 1
        path.write_bytes(data)
    cluster.run("sft", cluster.look)
    assert cluster.seen == WEIGHTS
    assert sorted(cluster.fetched) == sorted([*WEIGHTS, *WEIGHTS])


def test_each_node_is_filled_and_the_last_one_publishes(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        monkeypatch.setenv(NODE_VARIABLE, f"node-{index}")
        assert read_manifest(open_store(cluster.storage), cluster.keys["prewarm"]) is None
        monkeypatch.setenv(MODEL_CACHE_VARIABLE, str(tmp_path / f"node-{index}"))
        assert cluster.run("prewarm", prewarm.run, Shard(index=index, count=3)) == 0
        assert len(list((tmp_path / f"node-{index}" / "files").iterdir())) == len(WEIGHTS)
    manifest = read_manifest(open_store(cluster.storage), cluster.keys["prewarm"])
    assert manifest is not None
    assert manifest.counts["nodes"] == 3


def test_nodes_that_an_earlier_attempt_has_filled_do_not_count(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NODE_VARIABLE, "a")
    assert cluster.run("prewarm", prewarm.run, Shard(index=0, count=2), attempt="a-1") == 0
    monkeypatch.setenv(NODE_VARIABLE, "b")
    assert cluster.run("prewarm", prewarm.run, Shard(index=1, count=2), attempt="a-2") == 0
    assert read_manifest(open_store(cluster.storage), cluster.keys["prewarm"]) is None
    monkeypatch.setenv(MODEL_CACHE_VARIABLE, str(tmp_path / "c"))
    monkeypatch.setenv(NODE_VARIABLE, "c")
    assert cluster.run("prewarm", prewarm.run, Shard(index=0, count=2), attempt="a-2") == 0
    manifest = read_manifest(open_store(cluster.storage), cluster.keys["prewarm"])
    assert manifest is not None
    assert manifest.counts["nodes"] == 2
    assert len(list((tmp_path / "c" / "files").iterdir())) == len(WEIGHTS)


def test_a_file_that_another_pod_has_put_there_meanwhile_is_left_alone(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_file = S3Store.get_file

    def late(store: S3Store, location: str, local: Path, sha256: str, watch: Watch) -> None:
        get_file(store, location, local, sha256, watch)
        get_file(store, location, cluster.cache / "files" / sha256, sha256)
        inodes.add((cluster.cache / "files" / sha256).stat().st_ino)

    inodes: set[int] = set()
    monkeypatch.setattr(S3Store, "get_file", late)
    cluster.run("sft", cluster.look)
    assert cluster.seen == WEIGHTS
    assert {path.stat().st_ino for path in (cluster.cache / "files").iterdir()} == inodes


def test_a_stage_that_cannot_write_to_the_cache_does_without(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: "cache" not in str(path))
    monkeypatch.setenv(HUB_CACHE_VARIABLE, str(cluster.cache / "hub"))

    def sft(workspace: Workspace) -> Result:
        with pytest.raises(RuntimeError, match="seen enough"):
            cluster.look(workspace)
        assert HUB_CACHE_VARIABLE not in os.environ
        (workspace.scratch / "adapter").write_bytes(b"x")
        return Result(outputs={"adapter": workspace.scratch / "adapter"})

    assert cluster.run("sft", sft) == 0
    assert cluster.seen == WEIGHTS
    manifest = read_manifest(open_store(cluster.storage), cluster.keys["sft"])
    assert manifest is not None
    assert manifest.counts == {"modelCache.unwritable": 1}
    assert cluster.run("prewarm", prewarm.run) == EXIT_PERMANENT


def test_a_download_that_is_killed_leaves_only_what_is_cleared_later(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, left = cluster.cache / "files", set[str]()

    def parts(*_: Any) -> Iterator[bytes]:
        left.update(path.name for path in files.iterdir())
        # As after a kill: nobody tidies up.
        for path in list(files.iterdir()):
            os.link(path, path.with_name(f"{path.name}x"))
        raise RuntimeError("killed")

    monkeypatch.setattr(s3_bucket, "object_parts", parts)
    cluster.run("sft", cluster.look)
    assert left
    for path in files.iterdir():
        os.utime(path, (0, 0))
    assert list(files.iterdir())
    ModelCache.mounted()
    assert not list(files.iterdir())


def test_only_copied_models_are_kept(cluster: Cluster) -> None:
    cache = ModelCache.mounted()
    assert cache is not None
    store = open_store(cluster.storage)
    model = read_manifest(store, cluster.keys["prepare"])
    assert model is not None
    (first, *_) = model.outputs["model"].files
    assert cache.keeps(first)
    assert not cache.keeps(first.model_copy(update={"location": f"stages/{first.sha256}/attempts/a/model/x"}))


def test_without_the_variable_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MODEL_CACHE_VARIABLE, raising=False)
    assert ModelCache.mounted() is None


@pytest.mark.parametrize("shut", ["refused", "unwritable", "no directory"])
def test_a_volume_that_cannot_be_written_to_is_named(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shut: str
) -> None:
    root = tmp_path / "shut"
    if shut == "no directory":
        root.write_bytes(b"")
    elif shut == "unwritable":  # root may write everywhere, so the system's answers are played
        monkeypatch.setattr(os, "access", lambda path, _: "shut" not in str(path))
    else:

        def refuse(path: Path, **_: Any) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setenv(MODEL_CACHE_VARIABLE, str(root))
    with pytest.raises(PermanentError) as caught:
        ModelCache.mounted()
    assert str(root) in str(caught.value)
    if shut != "no directory":
        assert str(caught.value) == (
            f"modelCache: let user {os.getuid()} or group {os.getgid()} write to the volume (here {root})"
        )


def test_what_killed_processes_leave_is_removed_and_what_others_write_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, blobs = tmp_path / "files", tmp_path / "hub" / "models--owner--model" / "blobs"
    files.mkdir()
    blobs.mkdir(parents=True)
    digest, old = "a" * 64, ABANDONED + 60
    aged = {
        files / f".{digest}.1234": old,
        files / f".{digest}.5678": 1,
        files / digest: old,
        blobs / "etag.1234.incomplete": old,
        blobs / "etag.5678.incomplete": 1,
    }
    for path, age in aged.items():
        path.write_bytes(b"x")
        os.utime(path, (time.time() - age,) * 2)
    # Of the file system itself.
    (files / ".snapshot").mkdir()
    os.utime(files / ".snapshot", (0, 0))
    monkeypatch.setenv(MODEL_CACHE_VARIABLE, str(tmp_path))
    ModelCache.mounted()
    assert sorted(path.name for path in files.iterdir()) == sorted([".snapshot", f".{digest}.5678", digest])
    assert [path.name for path in blobs.iterdir()] == ["etag.5678.incomplete"]


# A model of the hub.


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_in_place(monkeypatch, tmp_path / "cache") as served:
        yield served


def test_a_model_of_the_hub_is_fetched_as_stages_read_it(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    model = model_directory(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    hub.repositories["models/owner/model"] = {**files, "pytorch_model.bin": b"pickle"}
    workspace = LocalWorkspace(
        tmp_path / "stage", "prewarm", PREWARM, references={"model": f"hf://owner/model@{COMMIT}"}
    )
    result = prewarm.run(workspace)
    assert result is not None
    assert result.counts == {"nodes": 1, "files": len(files), "bytes": sum(map(len, files.values()))}
    assert workspace.reported[-1] == (len(files), len(files), "parts")
    root = Path(snapshot_download("owner/model", revision=COMMIT, local_files_only=True))
    assert {path.name: path.read_bytes() for path in root.iterdir()} == files


def test_offline_the_model_must_be_there(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    workspace = LocalWorkspace(
        tmp_path / "stage", "prewarm", PREWARM, references={"model": f"hf://owner/model@{COMMIT}"}
    )
    with pytest.raises(PermanentError, match="owner/model") as caught:
        prewarm.run(workspace)
    assert caught.value.reason == "HubOffline"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "DiskFull"),
        (PermissionError(errno.EACCES, "Permission denied", "/mnt/model-cache/hub/x"), "StorageDenied"),
        (PermissionError(errno.EPERM, "Operation not permitted"), "HubUnreachable"),
    ],
)
def test_a_cache_that_is_full_is_not_called_a_hub_that_is_down(error: OSError, reason: str) -> None:
    assert explain(error, "baseModel.uri: hf://owner/model", offline=False).reason == reason
