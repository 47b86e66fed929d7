"""`evolution doctor` on storage: a directory, moto, a real MinIO, and services that refuse or ignore what stages need."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.locations import Storage
from evolution_jobs.store import s3_bucket
from evolution_jobs.store.open import open_store
from evolution_jobs.store.trial import StoreTrial, try_store
from evolution_operator.cli.doctor.storage import check_clock, check_storage

from tests.support.storage.picky import fault, refusing
from tests.support.storage.servers import s3_storage

STEPS = ["list", "write", "read", "create", "delete"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between botocore's tries."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


@pytest.fixture
def bucket(moto: str, s3_environment: None) -> Storage:
    return s3_storage(moto)


def states(trial: StoreTrial) -> dict[str, str]:
    return {check.name: check.state for check in check_storage(trial)}


def test_good_storage_passes_and_is_left_as_it_was(storage: Storage) -> None:
    store = open_store(storage)
    trial = try_store(store)
    assert trial.worked == STEPS
    assert trial.faults == {}
    assert abs(trial.ahead or 0) < 60
    assert list(store.list("")) == []
    if storage.uri.startswith("file://"):
        assert not Path(storage.uri.removeprefix("file://")).exists(), "the directory was not there before"
    assert set(states(trial).values()) == {"ok"}


def test_a_directory_with_results_keeps_them(directory: Storage) -> None:
    store = open_store(directory)
    store.put_bytes(b"x", "stages/key/manifest.json")
    assert try_store(store).worked == STEPS
    assert list(store.list("")) == [("stages/key/manifest.json", 1)]


def test_a_service_that_ignores_if_none_match_is_found(bucket: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """No service that does so runs here: the header is taken away on the way to moto, which then replaces the object."""
    opened = s3_bucket.open_client

    def open_client(*arguments: Any, **named: Any) -> Any:
        client = opened(*arguments, **named)
        client.meta.events.register("before-call.s3.PutObject", ignore)
        return client

    def ignore(params: dict[str, Any], **_: object) -> None:
        params["headers"].pop("If-None-Match", None)

    monkeypatch.setattr(s3_bucket, "open_client", open_client)
    store = open_store(bucket)
    trial = try_store(store)
    assert trial.worked == ["list", "write", "read", "delete"]
    assert trial.faults["create"].startswith("ConditionalWritesMissing: ")
    assert states(trial)["storage: conditional write"] == "failed"
    assert list(store.list("")) == []


@pytest.mark.parametrize(
    ("operation", "refused", "step", "words"),
    [
        ("PutObject", fault(403, "AccessDenied"), "write", "StorageDenied"),
        ("ListObjectsV2", fault(403, "AccessDenied"), "list", "s3:ListBucket"),
        ("GetObject", fault(403, "AccessDenied"), "read", "s3:GetObject"),
        ("DeleteObjects", fault(403, "AccessDenied"), "delete", "s3:DeleteObject"),
        ("ListObjectsV2", fault(404, "NoSuchBucket"), "list", "BucketMissing"),
        ("ListObjectsV2", fault(403, "RequestTimeTooSkewed"), "list", "ClockWrong"),
    ],
)
def test_a_right_that_is_missing_is_named(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch, operation: str, refused: Any, step: str, words: str
) -> None:
    refusing(monkeypatch, lambda asked, _: refused if asked == operation else None)
    trial = try_store(open_store(bucket))
    assert words in trial.faults[step]
    found = check_storage(trial)
    assert [check for check in found if check.state == "failed" and words in check.found]
    if "Missing" in words or words == "ClockWrong":
        assert trial.worked == [], "nothing else is tried"
        assert {check.state for check in found if check.name.startswith("storage: ")} == {"skipped"} | (
            {"ok"} if trial.ahead is not None else set()
        )
    if step == "delete":
        assert trial.left[0].startswith(f"{bucket.uri}/doctor/")


def test_a_service_without_conditional_writes_says_so(bucket: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, lambda _, headers: fault(501, "NotImplemented") if "if-none-match" in headers else None)
    assert "lacks conditional writes" in try_store(open_store(bucket)).faults["create"]


def test_nothing_listens(s3_environment: None) -> None:
    trial = try_store(open_store(Storage(uri="s3://bucket/runs", endpoint="http://127.0.0.1:9")))
    assert list(trial.faults) == ["list"]
    assert trial.faults["list"].startswith("StorageUnreachable: ")


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trial = try_store(open_store(Storage(uri=(tmp_path / "file" / "store").as_uri())))
    assert [words for words in trial.faults.values() if str(tmp_path / "file") in words]
    assert trial.worked == []


def test_a_clock_that_is_wrong_is_measured_against_the_service(bucket: Storage) -> None:
    trial = try_store(open_store(bucket), clock=lambda: time.time() + 2000)
    assert trial.ahead is not None
    assert abs(trial.ahead - 2000) < 100


@pytest.mark.parametrize(
    ("ahead", "state", "words"),
    [
        (None, "skipped", "not known"),
        (0.0, "ok", "agrees"),
        (-59.0, "ok", "agrees"),
        (61.0, "warning", "61 s ahead of"),
        (-899.0, "warning", "899 s behind"),
        (900.0, "failed", "900 s ahead of"),
        (-4000.0, "failed", "4000 s behind"),
    ],
)
def test_what_a_clock_means(ahead: float | None, state: str, words: str) -> None:
    check = check_clock(ahead, "clock")
    assert (check.state, words in check.found) == (state, True), check


def test_a_pod_prints_the_same_trial(tmp_path: Path) -> None:
    storage = {"uri": (tmp_path / "store").as_uri()}
    command = [sys.executable, "-m", "evolution_jobs.storage_trial", "--storage", json.dumps(storage)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert StoreTrial.stored(found.stdout).worked == STEPS, found.stderr
    wrong = subprocess.run([*command[:-1], '{"uri": "x"}'], capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 65
    assert wrong.stderr.startswith("SpecInvalid: --storage: ")
