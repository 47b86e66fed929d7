"""From a run file to a run on this machine, and what `evolution` prints if there is none."""

from __future__ import annotations

import errno
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from evolution_jobs.contract.keys import resolve_keys
from evolution_operator.api.validation import RunFileError
from evolution_operator.cli.main import main
from evolution_operator.local.driver import Driver
from evolution_operator.local.load import local_run
from evolution_operator.planner.graph import build_graph
from evolution_operator.planner.observed import Run

from tests.support.run_document import minimal_spec, run_document
from tests.support.storage.servers import make_bucket


def manifest(directory: Path, *, name: str = "first", **spec: Any) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "seed.jsonl").write_text("{}\n")
    spec = minimal_spec(model_uri="package://model", storage_uri="file://runs", seed_uri="file://seed.jsonl", **spec)
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(run_document(spec, name=name)))
    return path


def prepare_key(run: Run) -> str:
    return resolve_keys(build_graph(run.spec, dict(run.pins)), None)["prepare"]


def evolution(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("evolution")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)


@pytest.mark.parametrize("storage", ["here", "with #? %20 in it", "file://here"])
def test_another_storage_is_relative_to_the_current_directory(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some #1").mkdir()
    monkeypatch.chdir(tmp_path / "some #1")
    run = local_run(manifest(tmp_path), storage)
    wanted = Path.cwd() / storage.removeprefix("file://")
    assert run.spec.storage.uri == wanted.as_uri()


@pytest.mark.parametrize(
    ("storage", "words"),
    [("ftp://x", "must start with file:// or s3://"), ("s3://", "must start"), ("", "must not be")],
)
def test_another_storage_that_is_none_is_a_fault(storage: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RunFileError) as caught:
        local_run(manifest(tmp_path), storage)
    assert [fault.path for fault in caught.value.faults] == ["--storage"]
    assert words in str(caught.value)


def test_a_path_that_is_none_is_left_to_prepare(tmp_path: Path) -> None:
    data = {"seed": [{"uri": "file:///a%00b", "format": "esconv"}, {"uri": "file:///not-there", "format": "esconv"}]}
    assert local_run(manifest(tmp_path, data=data)).pins == {}


def test_a_changed_file_makes_prepare_look_again_whoever_asks(tmp_path: Path) -> None:
    path = manifest(tmp_path)
    before = prepare_key(local_run(path))
    assert prepare_key(local_run(manifest(tmp_path, name="second"))) != before, "the file was written again"
    before = prepare_key(local_run(path))
    assert prepare_key(local_run(tmp_path / "second.yaml")) == before
    os.utime(tmp_path / "seed.jsonl", ns=(1, 1))
    assert prepare_key(local_run(path)) != before


def test_a_renamed_file_of_a_model_makes_prepare_look_again(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/chat_template.jinja").write_text("x")
    path = manifest(tmp_path, baseModel={"uri": "file://model"})
    before = prepare_key(local_run(path))
    (tmp_path / "model/chat_template.jinja").rename(tmp_path / "model/chat_template.old")
    assert prepare_key(local_run(path)) != before


@pytest.mark.usefixtures("s3_environment")
def test_a_changed_object_makes_prepare_look_again(tmp_path: Path, moto: str) -> None:
    bucket = f"data-{secrets.token_hex(4)}"
    make_bucket(moto, bucket)
    client = boto3.client("s3", endpoint_url=moto, region_name="us-east-1")
    path = manifest(tmp_path, data={"seed": [{"uri": f"s3://{bucket}/a.jsonl", "format": "esconv", "endpoint": moto}]})
    keys = []
    for content in (b"one", b"two"):
        client.put_object(Bucket=bucket, Key="a.jsonl", Body=content)
        keys += [prepare_key(local_run(path)), prepare_key(local_run(path))]
    assert keys[0] == keys[1] != keys[2] == keys[3]


@pytest.mark.usefixtures("s3_environment")
def test_an_object_that_has_not_changed_is_not_read_again_by_another_run(tmp_path: Path, moto: str) -> None:
    bucket = f"data-{secrets.token_hex(4)}"
    make_bucket(moto, bucket)
    boto3.client("s3", endpoint_url=moto, region_name="us-east-1").put_object(Bucket=bucket, Key="a.jsonl", Body=b"one")
    data = {"seed": [{"uri": f"s3://{bucket}/a.jsonl", "format": "esconv", "endpoint": moto}]}
    first, second = (manifest(tmp_path, name=name, data=data) for name in ("first", "second"))
    assert prepare_key(local_run(first)) == prepare_key(local_run(second))


def test_each_run_looks_at_the_hub_for_itself(tmp_path: Path) -> None:
    model = {"baseModel": {"uri": "hf://owner/model"}}
    first, second = (manifest(tmp_path, name=name, **model) for name in ("first", "second"))
    assert prepare_key(local_run(first)) == prepare_key(local_run(first)) != prepare_key(local_run(second))


def test_each_run_looks_at_a_folder_of_s3_for_itself(tmp_path: Path) -> None:
    data = {"seed": [{"uri": "s3://bucket/talks/", "format": "esconv"}]}
    one, other = (local_run(manifest(tmp_path, name=name, data=data)) for name in ("one", "other"))
    assert prepare_key(one) != prepare_key(other)


def test_a_changed_part_of_a_folder_makes_prepare_look_again(tmp_path: Path) -> None:
    (tmp_path / "talks").mkdir()
    path = manifest(tmp_path, data={"seed": [{"uri": "file://talks", "format": "esconv"}]})
    keys = set()
    for name in ("part-0.jsonl", "part-1.jsonl"):
        (tmp_path / "talks" / name).write_text("{}")
        keys.add(prepare_key(local_run(path)))
    assert len(keys) == 2


def test_a_storage_that_is_none_ends_with_the_code_of_a_faulty_manifest(tmp_path: Path) -> None:
    answer = evolution("plan", "-f", str(manifest(tmp_path)), "--storage", "ftp://x", "--output", "json")
    assert answer.returncode == 2
    assert answer.stderr.startswith("--storage: must start with")
    assert json.loads(answer.stdout)["valid"] is False


@pytest.mark.parametrize(("text", "words"), [(None, "cannot be read: No such file"), ("", "is empty: write one")])
def test_what_is_wrong_with_a_file_as_a_whole_names_the_file(text: str | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "evolutionrun.yaml"
    if text is not None:
        file.write_text(text)
    answer = evolution("validate", "-f", str(file))
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"{file}: {words}")


def test_a_full_disk_under_the_drivers_own_directory_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def drive(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Driver, "drive", drive)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "argv", ["evolution", "run", "-f", str(manifest(tmp_path))])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: StateUnwritable: {tmp_path}/state")
    assert "No space left on device" in error
