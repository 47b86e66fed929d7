"""The results of a run: artifacts by readable names, found by a run file, a cluster's status, or pointers in the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.keys import manifest_path
from evolution_jobs.contract.names import Named, named
from evolution_operator.cli.main import app
from evolution_operator.cli.named import open_results
from evolution_operator.local.load import local_run
from typer.main import get_command
from typer.testing import CliRunner

from tests.support.run_document import run_document
from tests.support.stages.published import publish
from tests.unit.test_load import manifest


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("M0", Named("sft", "adapter")),
        ("M2", Named("dpo-2", "adapter")),
        ("pairs-1", Named("reflect-1", "pairs")),
        ("answers-0", Named("evaluate-0", "answers")),
        ("verdicts-3", Named("judge-3", "verdicts")),
        ("test", Named("prepare", "test")),
        ("M", None),
        ("pairs", None),
        ("M-1", None),
        ("m2", None),
        ("../M2", None),
    ],
)
def test_a_name_means_an_output_of_a_stage(name: str, place: Named | None) -> None:
    assert named(name) == place


def test_a_run_file_has_its_artifacts_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = manifest(tmp_path, iterations=1)
    empty = open_results(str(file))
    assert not empty.artifacts
    with pytest.raises(PermanentError, match=r"M1 is not there: stage dpo-1 .* has no finished stage of it"):
        empty.artifact("M1")
    assert not empty.observed
    publish(file, capsys)
    found = open_results(str(file))
    assert {"M0", "answers-0"} <= found.artifacts.keys()
    assert found.models == ["M0"]
    assert found.status is not None
    assert [stage.state for stage in found.status.stages if stage.id == "sft"] == ["Succeeded"]
    with pytest.raises(PermanentError, match=r"M9 is not there: run first has 1 rounds; there are "):
        found.artifact("M9")
    with pytest.raises(PermanentError, match=r"'model-2' is no name of an artifact; there are .*M0"):
        found.artifact("model-2")
    answers = found.artifact("answers-0")
    (path,) = found.fetch(answers.output, tmp_path / "got")
    assert path.read_text().count("\n") == 40


def test_a_stage_with_an_unreadable_manifest_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = manifest(tmp_path, iterations=1)
    run, keys = publish(file, capsys)
    place = Path(run.spec.storage.uri.removeprefix("file://")) / manifest_path(keys["sft"])
    place.write_text("{")
    with pytest.raises(PermanentError, match="M0: ManifestCorrupt"):
        open_results(str(file)).artifact("M0")


@pytest.mark.parametrize("stage", ["../../escaped", "/etc/sft", "sft\n", "\x1b[2J", ""])
def test_a_manifest_whose_stage_is_no_stage_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    file = manifest(tmp_path, iterations=1)
    run, keys = publish(file, capsys)
    place = Path(run.spec.storage.uri.removeprefix("file://")) / manifest_path(keys["sft"])
    place.write_text(json.dumps(json.loads(place.read_text()) | {"stage": stage}))
    found = open_results(str(file))
    assert [*found.manifests] == ["prepare", "evaluate-0"]
    assert "ManifestCorrupt" in found.faults["sft"]
    assert "stage: " in found.faults["sft"]


def test_a_run_on_the_cluster_is_found_by_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server's answer is played here; tests/api shows that the status has these fields."""
    file = manifest(tmp_path, iterations=1)
    run, keys = publish(file, capsys)
    states = {"sft": "Succeeded", "evaluate-0": "Running"}
    stages = [
        {"id": id_, "name": id_.partition("-")[0], "state": state, "key": keys[id_]} for id_, state in states.items()
    ]
    document: dict[str, Any] = run_document(run.spec.wire(), name="first")
    document["metadata"] |= {"namespace": "lab", "uid": "u"}
    document["status"] = {"phase": "Running", "stages": stages}
    monkeypatch.setattr("evolution_operator.cli.cluster.fetch", lambda *_: json.loads(json.dumps(document)))
    found = open_results("first", "lab")
    assert found.models == ["M0"]
    assert found.spec == local_run(file).spec
    document["spec"]["preferenceSource"] = "oracle"
    assert open_results("first", "lab").spec is None


def test_what_names_no_run_is_refused() -> None:
    with pytest.raises(PermanentError, match="neither a run file"):
        open_results("A run")


def test_every_command_that_reads_results_reaches_a_storage_by_another_endpoint() -> None:
    """What they say of a storage that only the cluster can reach names this option."""
    commands: Any = get_command(app)
    for name in ("get", "report", "chat", "export", "verify", "sign", "figures", "track"):
        assert "endpoint" in {parameter.name for parameter in commands.commands[name].params}, name


def test_status_of_a_run_file_says_what_shows_it() -> None:
    found = CliRunner().invoke(app, ["status", "run.yaml"])
    assert str(found.exception) == "run.yaml is a run file: `evolution plan -f run.yaml` shows its stages"


def test_a_storage_that_is_not_there_is_named(tmp_path: Path) -> None:
    for run in (str(manifest(tmp_path, iterations=1)), "first"):
        with pytest.raises(PermanentError, match=r"--storage: there is no directory .*/run s$"):
            open_results(run, storage=str(tmp_path / "run s"))


@pytest.mark.parametrize(("directory", "uri"), [("a b", "a%20b"), ("a%20b", "a%20b"), ("c", "c")])
def test_a_storage_is_the_directory_that_its_store_reads(tmp_path: Path, directory: str, uri: str) -> None:
    """A % that is part of the name, and the host localhost, mean what they mean in a run file."""
    (tmp_path / directory).mkdir()
    for host in ("", "localhost"):
        with pytest.raises(PermanentError, match="it has no run's results"):
            open_results("first", storage=f"file://{host}{tmp_path}/{uri}")
