"""`evolution get`: lists what a run has made, and copies it with its digests checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from evolution_jobs.contract.errors import PermanentError, StageError
from evolution_jobs.contract.keys import manifest_path
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.names import named
from evolution_jobs.store.base import CorruptObjectError
from evolution_operator.cli.main import app
from evolution_operator.cli.named import open_results
from evolution_operator.results.copies import fetch, missing, planned
from evolution_operator.results.results import Results
from evolution_operator.verify.findings import PROVENANCE
from evolution_operator.verify.provenance import UNSIGNED
from evolution_operator.verify.walk import provenance_path
from typer.testing import CliRunner

from tests.support.stages.finished import ADAPTER, finished_run, results_in
from tests.support.stages.published import publish
from tests.unit.test_load import manifest


def files_below(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def here(directory: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Calls `evolution get run ...` in an empty directory; the run's storage is beside it."""
    finished_run(directory)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return lambda *arguments: CliRunner().invoke(
        app, ["get", "run", *arguments, "--storage", str(tmp_path / "storage")]
    )


def test_artifacts_come_out_as_they_were_stored(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = finished_run(storage)
    read: list[int] = []
    wanted = [results.artifact(name) for name in ("M0", "responses-1")]
    for copy in planned("run", wanted, tmp_path / "out"):
        lacking = missing(copy)
        assert lacking == [file.path for file in copy.artifact.output.files]
        fetch(results, copy, lacking, watch=read.append)
        assert missing(copy) == []
    assert files_below(tmp_path / "out") == {*(f"M0/{path}" for path in ADAPTER), "responses-1.jsonl"}
    assert (tmp_path / "out/M0/adapter_model.safetensors").read_bytes() == b"weights" * 1000
    assert sum(read) == sum(file.size for artifact in wanted for file in artifact.output.files)

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", storage.endpoint or "")
    place = str(tmp_path / "again")
    found = CliRunner().invoke(app, ["get", "run", "M0", "-o", place, "--storage", storage.uri])
    assert found.exit_code == 0, found.exception
    assert files_below(tmp_path / "again") == {*ADAPTER, UNSIGNED}


def test_a_file_that_is_corrupt_in_the_storage_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    results = finished_run(storage)
    model = results.artifact("M0")
    (copy,) = planned("run", [model], tmp_path / "out" / "m")
    results.store.put_bytes(b"Weights" * 1000, model.output.files[0].location)
    with pytest.raises(CorruptObjectError):
        fetch(results, copy, missing(copy))
    assert list((tmp_path / "out").iterdir()) == []


def test_where_artifacts_go_is_what_a_user_expects(directory: Storage) -> None:
    results = finished_run(directory)

    def places(names: str, place: Path | None = None) -> list[str]:
        return [str(copy.path) for copy in planned("run", [results.artifact(each) for each in names.split()], place)]

    assert places("M0 responses-1 metrics-0") == ["run-M0", "run-responses-1.jsonl", "run-metrics-0.json"]
    assert places("M0", Path("out")) == ["out"]
    assert places("train", Path("out")) == ["out/train.jsonl"]
    assert places("M0 train", Path("out")) == ["out/M0", "out/train.jsonl"]


def test_what_is_there_is_listed(here: Callable[..., Result]) -> None:
    shown = here().output
    for name in ("train", "contexts", "M0", "responses-1", "metrics-0"):
        assert name in shown
        place = named(name)
        assert place is not None
        assert place.stage in shown
    document = json.loads(here("--output", "json").stdout)
    assert document["run"] == {"namespace": "tests", "name": "run", "champion": None}
    (model,) = [each for each in document["artifacts"] if each["name"] == "M0"]
    assert {file["path"] for file in model["files"]} == ADAPTER
    assert model["bytes"] == 7002


def test_a_copy_that_is_intact_is_not_made_again(here: Callable[..., Result]) -> None:
    first = here("M0", "responses-1")
    assert first.exit_code == 0, first.exception
    assert files_below(Path()) == {*(f"run-M0/{p}" for p in (*ADAPTER, UNSIGNED)), "run-responses-1.jsonl"}
    assert "run-M0: M0 of run, 2 files, 7.0 kB" in first.output
    assert 'PeftModel.from_pretrained(model, "run-M0"), where model is hf://owner/model@0123456789' in first.output
    before = Path("run-M0/adapter_model.safetensors").stat().st_ino
    again = here("M0")
    assert "run-M0: M0 is there already and intact" in again.output
    assert Path("run-M0/adapter_model.safetensors").stat().st_ino == before
    document = json.loads(here("M0", "train", "--output", "json").stdout)
    assert [(each["path"], each["written"]) for each in document["copied"]] == [
        ("run-M0", False),
        ("run-train.jsonl", True),
    ]


def test_a_file_that_differs_is_replaced_only_by_force(here: Callable[..., Result]) -> None:
    here("M0")
    Path("run-M0/adapter_model.safetensors").write_bytes(b"mine")
    Path("run-M0/notes.txt").write_text("mine")
    Path("run-M0/nested/config.json").unlink()
    refused = here("responses-1", "M0")
    assert isinstance(refused.exception, PermanentError)
    assert str(refused.exception) == (
        "run-M0/adapter_model.safetensors exists and is not that of M0; name another place with -o, or replace it with --force"
    )
    assert not Path("run-responses-1.jsonl").exists(), "conflicts are found before anything is copied"
    assert here("M0", "--force").exit_code == 0
    assert Path("run-M0/adapter_model.safetensors").read_bytes() == b"weights" * 1000
    assert files_below(Path("run-M0")) == {*ADAPTER, "notes.txt", UNSIGNED}


def test_what_lies_beside_a_model_is_replaced_only_by_force(here: Callable[..., Result], directory: Storage) -> None:
    Path("mine").mkdir()
    results = results_in(directory)
    results.store.put_bytes(b"signed", provenance_path(results.manifests["sft"].key))
    for name in (UNSIGNED, PROVENANCE):
        place = Path("mine", name)
        place.write_text("mine")
        refused = here("M0", "-o", "mine")
        assert isinstance(refused.exception, PermanentError)
        assert str(refused.exception).startswith(f"{place} exists and is not that of M0")
        assert place.read_text() == "mine"
        place.unlink()
        assert here("M0", "-o", "mine").exit_code == 0
        assert "intact" in here("M0", "-o", "mine").output
        place.write_text("mine")
        assert here("M0", "-o", "mine", "--force").exit_code == 0
        assert place.read_text() != "mine"


def test_a_place_of_the_wrong_kind_is_refused_also_by_force(here: Callable[..., Result]) -> None:
    Path("run-responses-1.jsonl").mkdir()
    assert "is a directory; name another place" in str(here("responses-1", "--force").exception)
    Path("file").write_text("mine")
    for arguments in (("M0", "-o", "file"), ("M0", "-o", "file", "--force")):
        assert str(here(*arguments).exception) == "file is a file; name another place with -o"
    assert str(here("train", "-o", "file/below").exception) == "file is a file; name another place with -o"
    assert Path("file").read_text() == "mine"


def test_a_manifest_cannot_write_to_the_terminal(here: Callable[..., Result], directory: Storage) -> None:
    results = results_in(directory)
    prepare = manifest_path(results.manifests["prepare"].key)
    text = (results.store.read(prepare) or b"").replace(b"hf://owner/model", b"hf://owner/\\u001b[2J")
    results.store.put_bytes(text, prepare)
    assert "where model is hf://owner/\ufffd[2J@0123456789" in here("M0").output


def test_a_list_shows_foreign_names_and_faults_as_text(here: Callable[..., Result], directory: Storage) -> None:
    results = results_in(directory)
    said = "\x1b[2J[/INST]"
    path = manifest_path(results.manifests["sft"].key)
    fields = {"outputs": {said: {}}}
    results.store.put_bytes(json.dumps(json.loads(results.store.read(path) or b"") | fields).encode(), path)
    listed = here()
    assert listed.exit_code == 0, listed.exception
    fault = listed.output.splitlines()[-1]
    assert fault.startswith("sft: ")
    assert "\ufffd[2J[/INST]" in fault
    assert "\x1b" not in listed.output


def test_what_cannot_be_copied_is_one_message(here: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, words in (
        ("M7", "M7 is not there: stage dpo-7 of run run has not finished; there are .*M0"),
        ("pairs", "'pairs' is no name of an artifact"),
        ("../M0", "is no name of an artifact"),
        ("champion", "the storage alone does not say"),
    ):
        with pytest.raises(PermanentError, match=words):
            raise here(name).exception or AssertionError(name)
    with pytest.raises(PermanentError, match="/proc/out") as refused:
        raise here("train", "-o", "/proc/out").exception or AssertionError
    assert refused.value.reason == "OutputUnwritable"
    for option in (["-o", "out"], ["--force"]):
        with pytest.raises(PermanentError, match="name what to copy"):
            raise here(*option).exception or AssertionError(option)
    assert files_below(Path()) == set()


def test_the_champion_is_a_name_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How a champion is chosen is the planner's; here the status names one."""
    file = manifest(tmp_path, iterations=1)
    empty = CliRunner().invoke(app, ["get", str(file)])
    assert "default/first: no stage has finished" in empty.output
    publish(file, capsys)
    arguments = ["get", str(file), "champion", "-o", str(tmp_path / "best")]
    assert "run first has chosen none yet" in str(CliRunner().invoke(app, arguments).exception)
    results = open_results(str(file))
    assert results.status is not None
    chosen = replace(results, status=results.status.model_copy(update={"champion": 0}))
    monkeypatch.setattr("evolution_operator.cli.get.read_results", lambda *_, **_options: chosen)
    listed = CliRunner().invoke(app, ["get", str(file)])
    assert "M0 *" in listed.output
    words = " ".join(listed.output.split())
    assert (
        f"copy: evolution get {file} M0 report base is the base model, if the run has a copy; champion is M0" in words
    )
    assert json.loads(CliRunner().invoke(app, ["get", str(file), "--output", "json"]).stdout)["run"]["champion"] == "M0"
    assert f"{tmp_path / 'best'}: M0 of first" in CliRunner().invoke(app, arguments).output
    both = json.loads(CliRunner().invoke(app, [*arguments, "M0", "--output", "json"]).stdout)
    assert both["copied"] == [{"name": "M0", "path": str(tmp_path / "best"), "written": False}]


def test_a_copied_base_model_is_a_directory_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = manifest(tmp_path, iterations=1)
    empty = CliRunner().invoke(app, ["get", str(file), "base"])
    assert "the base model of run first is not known" in str(empty.exception)
    publish(file, capsys)
    copied = CliRunner().invoke(app, ["get", str(file), "base", "M0", "-o", str(tmp_path / "models")])
    assert copied.exit_code == 0, copied.exception
    assert files_below(tmp_path / "models") == {"base/model", "M0/adapter", f"M0/{UNSIGNED}"}
    results = open_results(str(file))
    prepare = results.manifests["prepare"]
    elsewhere = prepare.outputs["model"].model_copy(update={"reference": "hf://owner/model@c0ffee"})
    known = {"prepare": prepare.model_copy(update={"outputs": {**prepare.outputs, "model": elsewhere}})}
    monkeypatch.setattr(
        "evolution_operator.cli.get.read_results", lambda *_, **_options: replace(results, manifests=known)
    )
    refused = CliRunner().invoke(app, ["get", str(file), "base"])
    assert "it reads the base model from hf://owner/model@c0ffee" in str(refused.exception)


def test_a_run_file_with_other_keys_says_where_earlier_results_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a copy of the folder: data files have other paths and times."""
    file = manifest(tmp_path, iterations=1)
    publish(file, capsys)
    changed = yaml.safe_load(file.read_text().replace("seed.jsonl", "other.jsonl"))
    # The stages' own run.
    changed["metadata"] = {"name": "run", "namespace": "tests"}
    file.write_text(yaml.safe_dump(changed))
    found = CliRunner().invoke(app, ["get", str(file)])
    assert found.exit_code == 0
    assert f"name them by run -n tests --storage file://{tmp_path / 'runs'}" in "".join(found.stderr.splitlines())
    assert "finds all but prepare" in " ".join(found.stderr.split())


def test_the_report_is_written_beside_the_rest(here: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """The page has tests of its own; here a function stands for it."""

    def write_report(results: Results, path: Path) -> None:
        path.write_text(results.name)

    monkeypatch.setattr("evolution_operator.reporting.load_writer", lambda: write_report)
    assert here("report").output == "run-report.html: the report of run\n"
    assert here("report", "train", "-o", "out").exit_code == 0
    assert files_below(Path()) == {"run-report.html", "out/report.html", "out/train.jsonl"}
    Path("file").write_text("mine")
    assert isinstance(here("report", "-o", "file").exception, StageError)
