"""Where records come from: files, S3 and the hub's data sets, and what is said where they cannot be had."""

import gzip
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from evolution_jobs.contract.credentials import credential_prefix
from evolution_jobs.contract.errors import PermanentError, StageError, TransientError
from evolution_jobs.contract.locations import Source, Storage
from evolution_jobs.data.readers import read_dialogue
from evolution_jobs.data.sources import fetch
from evolution_jobs.models.hub import Pinned, pin
from hypothesis import given
from hypothesis import strategies as st

from tests.support.storage.fake_hub import COMMIT, Hub, hub_in_place
from tests.support.storage.servers import ACCESS_KEY, SECRET_KEY, free_port, make_bucket

CONTENT = b'{"dialog": []}\n{"dialog": []}\n'
ROWS = b'{"dialog": [{"text": "I am sad.", "speaker": "usr"}, {"text": "Why?", "speaker": "sys", "strategy": "Question"}]}\n'
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FILES = Storage(uri="file:///storage")


def source(uri: str, **fields: Any) -> Source:
    return Source.model_validate({"uri": uri, "format": "esconv", **fields})


def refusal(source_: Source, directory: Path, storage: Storage = FILES) -> StageError:
    with pytest.raises(StageError) as caught:
        fetch(source_, "data.test[1]", storage, directory)
    assert "data.test[1]" in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_file_is_pinned_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "a file.jsonl"
    path.write_bytes(CONTENT)
    fetched = fetch(source(path.as_uri(), sha256=DIGEST), "data.seed[0]", FILES, tmp_path)
    assert fetched.pin == {"sha256": DIGEST, "bytes": len(CONTENT)}
    assert fetched.name == "a file.jsonl"
    assert [record.place for record in fetched.records()] == ["line 1", "line 2"]


def test_a_file_that_is_not_as_named_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    missing = refusal(source(path.as_uri()), tmp_path)
    assert (missing.reason, type(missing)) == ("DataMissing", PermanentError)
    assert str(path) in str(missing)
    assert "folder without data files" in str(refusal(source(tmp_path.as_uri()), tmp_path))
    path.write_bytes(CONTENT)
    other = refusal(source(path.as_uri(), sha256="0" * 64), tmp_path)
    assert (other.reason, type(other)) == ("ChecksumMismatch", PermanentError)
    assert DIGEST in str(other)
    for uri in ("file://relative.jsonl", "file://[x", "file:///a%00b"):
        assert refusal(source(uri), tmp_path).reason == "DataInvalid"


def test_a_file_name_may_hold_what_has_a_meaning_in_a_url(tmp_path: Path) -> None:
    path = tmp_path / "what? #1.jsonl"
    path.write_bytes(CONTENT)
    assert fetch(source(f"file://{path}"), "data.seed[0]", FILES, tmp_path).name == path.name
    assert fetch(source(path.as_uri()), "data.seed[0]", FILES, tmp_path).name == path.name


@pytest.mark.usefixtures("s3_environment")
def test_a_bucket_or_an_endpoint_that_cannot_be_is_refused(tmp_path: Path) -> None:
    assert refusal(source("s3://[x/y"), tmp_path).reason == "StorageInvalid"
    wrong = refusal(source("s3://bucket/key", endpoint="http://[::1"), tmp_path)
    assert "data.test[1].endpoint" in str(wrong)


def test_a_file_of_any_kind_is_read_under_the_names_of_its_format(tmp_path: Path) -> None:
    path = tmp_path / "talks.csv"
    path.write_text('dialog\n"[{""text"": ""I am sad."", ""speaker"": ""usr""}]"\n')
    (record,) = fetch(source(path.as_uri()), "data.seed[0]", FILES, tmp_path).records()
    turns, _ = read_dialogue(record.value, source(path.as_uri()))
    assert [turn.text for turn in turns] == ["I am sad."]


def parts(folder: Path) -> None:
    """A folder as Spark leaves it, with rows numbered in the order of the names."""
    (folder / "day=2").mkdir(parents=True)
    (folder / "_temporary").mkdir()
    (folder / "part-00000.jsonl").write_bytes(ROWS)
    (folder / "part-00001.jsonl.gz").write_bytes(gzip.compress(ROWS * 2))
    (folder / "day=2" / "part-00000.csv").write_text('dialog\n"[]"\n')
    for name in ("_SUCCESS", ".part-00000.jsonl.crc", "README.md", "_temporary/part-9.jsonl", ".hidden.jsonl"):
        (folder / name).write_text("not data")


PLACES = [
    "day=2/part-00000.csv line 2",
    "part-00000.jsonl line 1",
    "part-00001.jsonl.gz line 1",
    "part-00001.jsonl.gz line 2",
]


def test_a_folder_is_read_as_its_parts_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "talks"
    parts(folder)
    for uri in (folder.as_uri(), f"{folder.as_uri()}/"):
        fetched = fetch(source(uri), "data.seed[0]", FILES, tmp_path)
        assert [record.place for record in fetched.records()] == PLACES
        assert (fetched.name, fetched.pin["files"]) == ("talks", 3)
    before = fetched.pin["sha256"]
    (folder / "part-00002.jsonl").write_bytes(b"{broken\n[")
    again = fetch(source(folder.as_uri()), "data.seed[0]", FILES, tmp_path)
    assert again.pin["sha256"] != before
    assert [record.place for record in again.records() if record.error] == [
        "part-00002.jsonl line 1",
        "part-00002.jsonl line 2",
    ]
    (folder / "part-00002.jsonl").write_bytes(b"PK\x03\x04")
    with pytest.raises(PermanentError, match=r"talks/part-00002\.jsonl: is a zip archive"):
        list(again.records())
    assert "pins one file" in str(refusal(source(folder.as_uri(), sha256="0" * 64), tmp_path))


def test_a_folder_of_s3_is_read_as_its_parts(bucket: tuple[str, str], tmp_path: Path) -> None:
    name, endpoint = bucket
    parts(tmp_path / "talks")
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    for path in (tmp_path / "talks").rglob("*"):
        if path.is_file():
            client.put_object(Bucket=name, Key=path.relative_to(tmp_path).as_posix(), Body=path.read_bytes())
    client.put_object(Bucket=name, Key="talks/day=2/", Body=b"")
    uri = f"s3://{name}/talks/"
    fetched = fetch(source(uri, endpoint=endpoint), "data.seed[0]", FILES, tmp_path)
    assert [record.place for record in fetched.records()] == PLACES
    local = fetch(source((tmp_path / "talks").as_uri()), "data.seed[0]", FILES, tmp_path)
    assert (fetched.name, fetched.pin) == (uri, local.pin)
    missing = refusal(source(uri.rstrip("/"), endpoint=endpoint), tmp_path)
    assert (missing.reason, f"write {uri}" in str(missing)) == ("DataMissing", True)
    assert "without data files" in str(refusal(source(f"s3://{name}/none/", endpoint=endpoint), tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(CONTENT)
    path.chmod(0)
    assert refusal(source(path.as_uri()), tmp_path).reason == "DataUnreadable"


@pytest.fixture
def bucket(moto: str, s3_environment: None) -> tuple[str, str]:
    """A bucket with one object, and its endpoint."""
    name = f"data-{secrets.token_hex(4)}"
    make_bucket(moto, name)
    client = boto3.client("s3", endpoint_url=moto, region_name="us-east-1")
    client.put_object(Bucket=name, Key="sets/x.jsonl", Body=CONTENT)
    return name, moto


def test_an_object_of_s3_at_an_endpoint_of_its_own(bucket: tuple[str, str], tmp_path: Path) -> None:
    name, endpoint = bucket
    uri = f"s3://{name}/sets/x.jsonl"
    fetched = fetch(source(uri, endpoint=endpoint, sha256=DIGEST), "data.seed[0]", FILES, tmp_path)
    assert fetched.pin == {"sha256": DIGEST, "bytes": len(CONTENT)}
    assert fetched.name == uri
    assert len(list(fetched.records())) == 2
    # Fetched once, however many roles name it.
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").delete_object(Bucket=name, Key="sets/x.jsonl")
    assert fetch(source(uri, endpoint=endpoint), "data.contexts[0]", FILES, tmp_path).pin == fetched.pin


def test_an_object_of_s3_at_the_storages_endpoint(bucket: tuple[str, str], tmp_path: Path) -> None:
    name, endpoint = bucket
    storage = Storage(uri="s3://elsewhere/runs", endpoint=endpoint)
    assert len(list(fetch(source(f"s3://{name}/sets/x.jsonl"), "data.seed[0]", storage, tmp_path).records())) == 2


def test_an_object_that_cannot_be_had_is_named_with_its_field(bucket: tuple[str, str], tmp_path: Path) -> None:
    name, endpoint = bucket
    missing = refusal(source(f"s3://{name}/sets/y.jsonl", endpoint=endpoint), tmp_path)
    assert (missing.reason, type(missing)) == ("DataMissing", PermanentError)
    no_bucket = refusal(source("s3://there-is-none/x", endpoint=endpoint), tmp_path)
    assert isinstance(no_bucket, PermanentError)
    assert "there-is-none" in str(no_bucket)
    refused = refusal(source(f"s3://{name}/x", endpoint=f"http://127.0.0.1:{free_port()}"), tmp_path)
    assert isinstance(refused, TransientError)
    assert "data.test[1].endpoint" in str(refused)
    wrong = refusal(source(f"s3://{name}/sets/x.jsonl", endpoint=endpoint, sha256="0" * 64), tmp_path)
    assert wrong.reason == "ChecksumMismatch"


def test_missing_credentials_are_named(
    bucket: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, endpoint = bucket
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    error = refusal(source(f"s3://{name}/sets/x.jsonl", endpoint=endpoint), tmp_path)
    assert (error.reason, type(error)) == ("CredentialsMissing", PermanentError)
    assert "data.test[1].credentialsSecret" in str(error)


@pytest.mark.minio
def test_a_source_has_credentials_of_its_own(
    minio: str, tmp_path: Path, s3_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"data-{secrets.token_hex(4)}"
    make_bucket(minio, name)
    client = boto3.client(
        "s3", endpoint_url=minio, region_name="us-east-1", config=Config(s3={"addressing_style": "path"})
    )
    client.put_object(Bucket=name, Key="x.jsonl", Body=CONTENT)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-storages")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-storages-secret")
    own = source(f"s3://{name}/x.jsonl", endpoint=minio, credentialsSecret="data.one")
    refused = refusal(own, tmp_path)
    assert isinstance(refused, PermanentError)
    assert "the-storages-secret" not in str(refused)
    monkeypatch.setenv(f"{credential_prefix('data.one')}AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv(f"{credential_prefix('data.one')}AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    assert len(list(fetch(own, "data.seed[0]", FILES, tmp_path).records())) == 2


secret_names = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,6}[a-z0-9])?", fullmatch=True)


@given(secret_names, secret_names)
def test_two_secrets_never_share_their_variables(one: str, other: str) -> None:
    assert (credential_prefix(one) == credential_prefix(other)) == (one == other)
    assert (credential_prefix(one) + "HF_TOKEN").isidentifier()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_in_place(monkeypatch, tmp_path / "cache") as served:
        yield served


def test_a_data_set_of_the_hub_is_pinned_to_its_commit(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["datasets/owner/data"] = {"train.jsonl": ROWS, "test.jsonl": ROWS * 2}
    monkeypatch.setenv(f"{credential_prefix('my-secret')}HF_TOKEN", "hf_own")
    own = source("hf://owner/data", split="test", credentialsSecret="my-secret")
    fetched = fetch(own, "data.seed[0]", FILES, tmp_path)
    assert fetched.pin == {"commit": COMMIT}
    assert fetched.name == f"hf://owner/data@{COMMIT}/test"
    rows = list(fetched.records())
    assert [record.place for record in rows] == ["row 1", "row 2"]
    turns, _ = read_dialogue(rows[0].value, own)
    assert [turn.role for turn in turns] == ["seeker", "supporter"]
    assert set(hub.tokens) == {"hf_own"}


def test_a_text_data_set_holds_one_line_of_json_a_row(hub: Hub, tmp_path: Path) -> None:
    """thu-coai/esconv is published so."""
    hub.repositories["datasets/owner/data"] = {"train.txt": ROWS}
    (record,) = fetch(source("hf://owner/data"), "data.seed[0]", FILES, tmp_path).records()
    assert set(record.value) == {"text"}
    turns, _ = read_dialogue(record.value, source("hf://owner/data"))
    assert len(turns) == 2


def test_what_the_hub_refuses_is_said_in_one_line(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["datasets/owner/data"] = {"train.jsonl": ROWS}
    hub.repositories["datasets/owner/gated"] = {"train.jsonl": ROWS}
    hub.gated.add("datasets/owner/gated")
    expected = {"hf://owner/none": "HubMissing", "hf://owner/data": "HubMissing", "hf://owner/gated": "HubDenied"}
    for uri, reason in expected.items():
        error = refusal(source(uri, revision="v9"), tmp_path)
        assert (error.reason, type(error)) == (reason, PermanentError)
        assert uri in str(error)
    hub.broken = True
    busy = refusal(source("hf://owner/data"), tmp_path)
    assert (busy.reason, type(busy)) == ("HubUnreachable", TransientError)


def test_the_hub_offline_gives_what_its_cache_holds(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["datasets/owner/data"] = {"train.jsonl": ROWS}
    online = fetch(source("hf://owner/data"), "data.seed[0]", FILES, tmp_path)
    assert len(list(online.records())) == 1
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = refusal(source("hf://owner/other"), tmp_path)
    assert (error.reason, type(error)) == ("HubOffline", PermanentError)
    assert "HF_HUB_OFFLINE" in str(error)


def test_a_commit_needs_no_question_to_the_hub() -> None:
    commit = "0123456789" * 4
    assert pin("hf://owner/data", commit, "dataset", None, "f") == Pinned("owner/data", commit)
    assert pin(f"hf://owner/data@{commit}", None, "dataset", None, "f").uri == f"hf://owner/data@{commit}"


def test_a_local_directory_never_passes_for_a_data_set_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert refusal(source("hf://owner/data", revision="0" * 40), tmp_path).reason == "HubInvalid"


def test_a_split_that_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["datasets/owner/data"] = {"train.jsonl": ROWS}
    fetched = fetch(source("hf://owner/data", split="validation"), "data.seed[0]", FILES, tmp_path)
    with pytest.raises(PermanentError, match=r"data\.seed\[0\]\.split: .*validation") as caught:
        list(fetched.records())
    assert caught.value.reason == "DataMissing"


CARD = b"""---
configs:
- config_name: english
  data_files: [{split: train, path: english/train.jsonl}, {split: test, path: english/test.jsonl}]
- config_name: german
  data_files: german/train.jsonl
---
"""


def test_a_data_set_of_several_configurations_needs_one(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["datasets/owner/data"] = {
        "README.md": CARD,
        "english/train.jsonl": ROWS,
        "english/test.jsonl": ROWS * 2,
        "german/train.jsonl": ROWS * 3,
    }

    def read(**fields: str) -> int:
        return len(list(fetch(source("hf://owner/data", **fields), "data.seed[0]", FILES, tmp_path).records()))

    assert (read(config="german"), read(config="english", split="test")) == (3, 2)
    expected = {
        "data.seed[0].uri: hf://owner/data@0123456789abcdef0123456789abcdef01234567 has several configurations": {},
        "name one by config: (english, german)": {},
        "data.seed[0].config: ": {"config": "french"},
        "has no 'french'; it has english, german": {"config": "french"},
        "data.seed[0].split: ": {"config": "english", "split": "dev"},
        "has no 'dev'; it has train, test": {"config": "english", "split": "dev"},
    }
    for words, fields in expected.items():
        with pytest.raises(PermanentError) as caught:
            read(**fields)
        assert caught.value.reason == "DataMissing"
        assert words in str(caught.value)
        assert "load_dataset" not in str(caught.value)
    named = fetch(source("hf://owner/data", config="german"), "data.seed[0]", FILES, tmp_path)
    assert named.name == f"hf://owner/data@{COMMIT}/german/train"


def test_a_data_set_without_data_files_or_with_a_script_is_refused_in_our_words(hub: Hub, tmp_path: Path) -> None:
    for files, words in (
        ({"README.md": b"words"}, "holds no data files"),
        ({"data.py": b"import os"}, "cannot be read as data files|holds no data files"),
    ):
        hub.repositories["datasets/owner/data"] = files
        with pytest.raises(PermanentError, match=words):
            list(fetch(source("hf://owner/data"), "data.seed[0]", FILES, tmp_path).records())


def test_data_files_that_cannot_be_read_are_named(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["datasets/owner/data"] = {"train.jsonl": b"{broken\xff"}
    fetched = fetch(source("hf://owner/data"), "data.seed[0]", FILES, tmp_path)
    with pytest.raises(PermanentError, match=r"data\.seed\[0\]\.uri: .* cannot be read as data files") as caught:
        list(fetched.records())
    assert caught.value.reason == "DataMalformed"
