"""Services and bucket policies that refuse some requests, and keys as people really have them."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from evolution_jobs.contract.errors import PermanentError, StageError, TransientError
from evolution_jobs.contract.locations import Storage
from evolution_jobs.store.base import file_sha256
from evolution_jobs.store.data_sources import local_path, open_bucket
from evolution_jobs.store.open import open_store
from evolution_jobs.store.s3_parts import PART
from pydantic import ValidationError

from tests.support.stages import fake_stages
from tests.support.stages.runner import Runner
from tests.support.storage.picky import Refusal, fault, refusing
from tests.support.storage.servers import s3_storage

BATCH_REFUSALS = [
    (501, "NotImplemented"),
    (400, "MissingContentMD5"),
    (400, "MalformedXML"),
    (400, "InvalidArgument"),
    (405, "MethodNotAllowed"),
]
SSE = "x-amz-server-side-encryption"
PAGE: Refusal = (403, "<html>blocked</html>", {"content-type": "text/html", "via": "1.1 proxy"})


@pytest.fixture
def bucket(moto: str, s3_environment: None) -> Storage:
    return s3_storage(moto)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between botocore's tries."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


def failure(act: Any) -> StageError:
    with pytest.raises(StageError) as caught:
        act()
    return caught.value


def test_a_batch_delete_carries_the_checksum_that_older_services_demand(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = refusing(
        monkeypatch,
        lambda operation, headers: (
            fault(400, "MissingContentMD5") if operation == "DeleteObjects" and "content-md5" not in headers else None
        ),
    )
    store = open_store(bucket)
    for name in ("rows/a", "rows/b&<c"):
        store.put_bytes(b"x", name)
    store.delete("rows/")
    assert list(store.list("")) == []
    (headers,) = [headers for operation, headers in sent if operation == "DeleteObjects"]
    assert len(base64.b64decode(headers["content-md5"])) == hashlib.md5(b"").digest_size


@pytest.mark.parametrize(("status", "code"), BATCH_REFUSALS)
def test_single_deletes_take_over_where_batches_are_refused(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    sent = refusing(monkeypatch, lambda operation, _: fault(status, code) if operation == "DeleteObjects" else None)
    store = open_store(bucket)
    for _ in range(2):
        for name in ("rows/a", "rows/b"):
            store.put_bytes(b"x", name)
        store.delete("rows/")
        assert list(store.list("")) == []
    assert [operation for operation, _ in sent].count("DeleteObjects") == 1, "the refusal is remembered"


@pytest.mark.parametrize("refusal", [fault(403, "AccessDenied"), fault(501, "NotImplemented"), fault(503, "SlowDown")])
def test_a_finished_stage_stays_finished_if_nothing_can_be_deleted(
    bucket: Storage, run: Runner, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    spec = fake_stages.spec(bucket, "prepare")
    refused = [True]
    refusing(monkeypatch, lambda operation, _: refusal if operation.startswith("DeleteObject") and refused[0] else None)

    def stage(workspace: Any) -> Any:
        workspace.rows.append([{"id": "1"}])
        return fake_stages.prepare(workspace)

    code, report = run(spec, prepare=stage)
    assert (code, report.reason) == (0, "Completed"), report
    assert [note.partition(": ")[0] for note in report.notes] == ["cleanup"]
    assert report.counts["cleanup.failed"] == 1
    assert "conditional" not in report.notes[0]
    left = [name for name, _ in open_store(bucket).list("") if "/rows/" in name]
    assert left
    refused[0] = False
    code, report = run(spec, prepare=stage)
    assert (code, report.reason) == (0, "Cached")
    assert "cleanup.failed" not in report.counts
    assert [name for name, _ in open_store(bucket).list("") if "/rows/" in name] == []


def demands_encryption(operation: str, headers: Mapping[str, str]) -> Refusal | None:
    writes = operation in ("PutObject", "CreateMultipartUpload", "CopyObject")
    return fault(403, "AccessDenied") if writes and SSE not in headers else None


@pytest.mark.parametrize("kind", ["AES256", "aws:kms"])
def test_every_write_asks_for_the_encryption_of_the_spec(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    sent = refusing(monkeypatch, demands_encryption)
    more = {"encryption": kind} | ({"kmsKeyId": "some-key"} if kind == "aws:kms" else {})
    store = open_store(Storage.model_validate(bucket.wire() | more))
    (tmp_path / "large").write_bytes(bytes(17 << 20))
    store.put_file(tmp_path / "large", "large")
    store.put_bytes(b"x", "small")
    assert store.put_if_absent(b"x", "new")
    assert store.read("small") == b"x"
    asked = {operation: headers for operation, headers in sent if SSE in headers}
    assert set(asked) == {"PutObject", "CreateMultipartUpload"}
    for headers in asked.values():
        assert headers[SSE] == kind
        assert headers.get(f"{SSE}-aws-kms-key-id") == more.get("kmsKeyId")


def test_without_it_the_policy_is_named_as_a_cause(bucket: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, demands_encryption)
    error = failure(lambda: open_store(bucket).put_bytes(b"x", "a"))
    assert error.reason == "StorageDenied"
    for words in ("s3:PutObject", "policy", "storage.encryption", "Reading is allowed, only writing is not"):
        assert words in str(error)


CAUSES = [
    ("read", fault(403, "InvalidAccessKeyId"), "StorageDenied", "AWS_ACCESS_KEY_ID"),
    ("read", fault(403, "SignatureDoesNotMatch"), "StorageDenied", "AWS_SECRET_ACCESS_KEY"),
    ("read", fault(400, "ExpiredToken"), "StorageDenied", "expired"),
    ("read", fault(403, "AccessDenied"), "StorageDenied", "s3:GetObject"),
    ("list", fault(403, "AccessDenied"), "StorageDenied", "s3:ListBucket"),
    ("delete", fault(403, "AccessDenied"), "StorageDenied", "s3:DeleteObject"),
    ("read", PAGE, "StorageInvalid", "web page"),
    ("delete", fault(501, "NotImplemented"), "StorageInvalid", "does not implement DeleteObject"),
    ("put_if_absent", fault(501, "NotImplemented"), "StorageInvalid", "conditional writes"),
    ("list", fault(404, "NoSuchKey"), "StorageInvalid", "must not contain the bucket"),
    (
        "read",
        (400, "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>", {}),
        "StorageInvalid",
        "storage.region: eu-west-1",
    ),
]


@pytest.mark.parametrize(("method", "refusal", "reason", "words"), CAUSES)
def test_each_refusal_has_its_own_cause(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch, method: str, refusal: Refusal, reason: str, words: str
) -> None:
    refusing(monkeypatch, lambda *_: refusal)
    store = open_store(bucket)
    acts = {
        "read": lambda: store.read("a"),
        "list": lambda: list(store.list("")),
        "delete": lambda: store.delete("a"),
        "put_if_absent": lambda: store.put_if_absent(b"x", "a"),
    }
    error = failure(acts[method])
    assert (error.reason, isinstance(error, PermanentError)) == (reason, True)
    assert words in str(error)
    assert "server's words" not in str(error)
    assert ("conditional" in str(error)) is (method == "put_if_absent")


def test_the_page_of_a_proxy_is_told_as_its_own(bucket: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:canary-password@proxy.example:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    refusing(monkeypatch, lambda *_: PAGE)
    storage = bucket.model_copy(update={"endpoint": "http://storage.example:9000"})
    error = failure(lambda: open_store(storage).read("a"))
    assert error.reason == "ProxyDenied"
    assert "http://proxy.example:3128" in str(error)
    assert "canary-password" not in str(error)


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("http://host:9000/evolution", False),
        ("http://host:9000/evolution/", False),
        ("http://host:9000/s3/evolution", False),
        ("https://evolution.account.r2.cloudflarestorage.com", False),
        ("https://evolution.s3.eu-central-1.amazonaws.com", False),
        ("https://account.r2.cloudflarestorage.com/evolution", False),
        ("http://host:9000/", True),
        ("http://host:9000/s3", True),
        ("http://evolution:9000", True),
        ("http://evolution.minio:9000/", True),
        ("http://[::1]:9000", True),
        ("https://s3.eu-central-1.amazonaws.com", True),
        ("http://host :9000", False),
        ("host:9000", False),
    ],
)
def test_an_endpoint_does_not_contain_the_bucket(endpoint: str, allowed: bool) -> None:
    document = {"uri": "s3://evolution/runs", "endpoint": endpoint}
    if allowed:
        assert Storage.model_validate(document).endpoint == endpoint
    else:
        with pytest.raises(ValidationError, match="endpoint"):
            Storage.model_validate(document)


@pytest.mark.usefixtures("s3_environment")
def test_an_endpoint_of_the_environment_with_the_bucket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://host:9000/evolution\n")
    error = failure(lambda: open_store(Storage(uri="s3://evolution")))
    assert error.reason == "StorageInvalid"
    assert "contains the bucket evolution" in str(error)


@pytest.mark.parametrize("uri", ["s3://bucket//runs", "s3:///runs", "s3://buck et/runs", "s3://bucket//"])
def test_a_storage_with_an_odd_place_is_refused(uri: str) -> None:
    with pytest.raises(ValidationError, match="uri"):
        Storage(uri=uri)


@pytest.mark.parametrize("prefix", ["", "/", "/a//b", "/a b%20+#?/"])
def test_a_prefix_is_taken_literally_but_for_slashes_at_its_end(bucket: Storage, prefix: str) -> None:
    storage = bucket.model_copy(update={"uri": "/".join(bucket.uri.split("/")[:3]) + prefix})
    store = open_store(storage)
    store.put_bytes(b"x", "stages/a")
    assert list(store.list("")) == [("stages/a", 1)]
    assert list(store.bucket.list("")) == [(f"{prefix.strip('/')}/stages/a".lstrip("/"), 1)]  # type: ignore[attr-defined]


KEYS = [
    "data/ES Conv+v2 (final).jsonl",
    "data/100%25 ok.jsonl",
    "data/100% ok.jsonl",
    "data/Gespr\xe4che.jsonl",
    "data/Gespra\u0308che.jsonl",
    "data/a#b?c=d&e.jsonl",
    "data//double.jsonl",
    "data/double.jsonl",
    "/leading.jsonl",
    "leading.jsonl",
    "trailing.jsonl ",
    "trailing.jsonl",
    "folder/",
    ".evolution-partial/x",
]


def test_every_key_is_read_literally(bucket: Storage, tmp_path: Path) -> None:
    name = bucket.uri.split("/")[2]
    client = boto3.client("s3", endpoint_url=bucket.endpoint, region_name="us-east-1")
    for key in KEYS:
        client.put_object(Bucket=name, Key=key, Body=key.encode())
    for number, key in enumerate(KEYS):
        found, literal = open_bucket(f"s3://{name}/{key}", bucket, None, None)
        assert literal == key
        found.download(literal, tmp_path / str(number))
        assert (tmp_path / str(number)).read_bytes() == key.encode()
        assert found.tag(literal)


LARGE = 2 * PART + 1


def second_part(operation: str, headers: Mapping[str, str]) -> bool:
    return operation == "GetObject" and headers.get("range", "").startswith(f"bytes={PART}-")


def test_a_part_that_breaks_off_is_asked_for_again(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    span = {"content-length": str(PART), "content-range": f"bytes {PART}-{2 * PART - 1}/{LARGE}", "etag": "tag"}
    answers: list[Refusal | None] = [(206, "half", span), (206, "", span), None]
    sent = refusing(monkeypatch, lambda *request: answers.pop(0) if second_part(*request) else None)
    (tmp_path / "large").write_bytes(os.urandom(LARGE))
    store = open_store(bucket)
    store.put_file(tmp_path / "large", "a")
    store.get_file("a", tmp_path / "copy", file_sha256(tmp_path / "large"))
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "large").read_bytes()
    assert [second_part(*request) for request in sent].count(True) == 3


def test_a_part_that_always_breaks_off_leaves_no_copy(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    span = {"content-length": str(PART), "content-range": f"bytes {PART}-{2 * PART - 1}/{LARGE}", "etag": "tag"}
    refusing(monkeypatch, lambda *request: (206, "half", span) if second_part(*request) else None)
    (tmp_path / "large").write_bytes(bytes(LARGE))
    store = open_store(bucket)
    store.put_file(tmp_path / "large", "a")
    assert failure(lambda: store.get_file("a", tmp_path / "copy")).reason == "StorageUnreachable"
    assert list(tmp_path.glob("*copy*")) == []


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = open_store(bucket)

    def replace(operation: str, headers: Mapping[str, str]) -> None:
        if second_part(operation, headers):
            store.put_bytes(b"new", "a")

    refusing(monkeypatch, replace)
    (tmp_path / "large").write_bytes(bytes(LARGE))
    store.put_file(tmp_path / "large", "a")
    reader = open_store(bucket)
    error = failure(lambda: reader.get_file("a", tmp_path / "copy"))
    assert isinstance(error, TransientError)
    assert error.reason == "StorageConflict"
    assert list(tmp_path.glob("*copy*")) == []
    reader.get_file("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"new"


def test_a_service_without_ranges_is_told_by_a_large_object(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = {"content-length": str(LARGE), "etag": "tag"}
    refusing(monkeypatch, lambda operation, _: (200, "x" * LARGE, whole) if operation == "GetObject" else None)
    error = failure(lambda: open_store(bucket).get_file("a", tmp_path / "copy"))
    assert error.reason == "StorageInvalid"
    assert "not an S3 service" in str(error)


@pytest.mark.parametrize("key", ["../a", "a/../b", "./a", "a/."])
def test_a_key_that_clients_would_resolve_is_refused(bucket: Storage, key: str) -> None:
    error = failure(lambda: open_bucket(f"s3://bucket/{key}", bucket, None, None))
    assert error.reason == "DataInvalid"
    assert key in str(error)


def test_a_percent_sign_in_a_file_name_needs_no_escape(tmp_path: Path) -> None:
    (tmp_path / "a%20b").touch()
    (tmp_path / "\xe4 c").touch()
    assert local_path(f"file://{tmp_path}/a%20b", "x") == tmp_path / "a%20b"
    assert local_path(f"file://{tmp_path}/%C3%A4%20c", "x") == tmp_path / "\xe4 c"
    assert local_path(f"file://{tmp_path}/\xe4 c", "x") == tmp_path / "\xe4 c"
    (tmp_path / "a b").touch()
    error = failure(lambda: local_path(f"file://{tmp_path}/a%20b", "x"))
    assert error.reason == "DataInvalid"
    assert "both exist" in str(error)
