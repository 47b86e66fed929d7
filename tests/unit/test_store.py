"""One contract for every store, and what each says when it fails."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from evolution_jobs.contract.errors import PermanentError, StageError, TransientError
from evolution_jobs.contract.locations import Storage
from evolution_jobs.store.base import CorruptObjectError, MissingObjectError, Store, disk_error
from evolution_jobs.store.file import PRIVATE, FileStore
from evolution_jobs.store.open import open_store
from evolution_jobs.store.patient import PatientStore
from evolution_jobs.store.s3_client import client_config
from evolution_jobs.store.s3_errors import shown_endpoint

from hack.cluster.processes import wait_until
from tests.support.storage.servers import (
    ACCESS_KEY,
    SECRET_KEY,
    find_minio,
    free_port,
    make_bucket,
    minio_server,
    s3_storage,
)

ABSENT = "not/there"


@pytest.fixture
def store(storage: Storage) -> Store:
    return open_store(storage)


def listed(store: Store, prefix: str = "") -> dict[str, int]:
    return dict(store.list(prefix))


# The contract.


def test_bytes_come_back_with_their_digest(store: Store) -> None:
    store.put_bytes(b"hello", "a/b.json")
    found = store.read("a/b.json")
    assert found is not None
    assert found == b"hello"
    assert store.sha256("a/b.json") == hashlib.sha256(b"hello").hexdigest()


def test_what_is_absent_is_none_and_deleting_it_is_no_error(store: Store, tmp_path: Path) -> None:
    assert store.read(ABSENT) is None
    assert store.sha256(ABSENT) is None
    assert listed(store) == {}
    assert listed(store, "not/there/") == {}
    store.delete(ABSENT)
    store.delete("not/there/")
    with pytest.raises(MissingObjectError, match=ABSENT):
        store.get_file(ABSENT, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("size", [0, 1, 40 << 20])
def test_files_go_and_come_whole(store: Store, tmp_path: Path, size: int) -> None:
    local = tmp_path / "model.safetensors"
    local.write_bytes(os.urandom(size))
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    store.put_file(local, "model/model.safetensors")
    assert listed(store) == {"model/model.safetensors": size}
    assert store.sha256("model/model.safetensors") == digest
    store.get_file("model/model.safetensors", tmp_path / "copy", digest)
    assert (tmp_path / "copy").read_bytes() == local.read_bytes()


def test_a_large_file_is_never_held_in_memory(real_storage: Storage, tmp_path: Path) -> None:
    """A file of 400 MiB goes and comes in a process that may not have 256 MiB more of data than it begins with."""
    local = tmp_path / "large"
    with local.open("wb") as file:
        file.truncate(400 << 20)
    script = f"""
import resource, sys
from pathlib import Path
from evolution_jobs.contract.locations import Storage
from evolution_jobs.store.open import open_store
from evolution_jobs.store.patient import PatientStore
store = open_store(Storage.model_validate_json(sys.argv[1]))
store.put_bytes(b"warm", "warm")
used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used + (256 << 20),) * 2)
store.put_file(Path({str(local)!r}), "large")
digest = store.sha256("large")
store.get_file("large", Path({str(tmp_path / "copy")!r}), digest)
"""
    subprocess.run([sys.executable, "-c", script, real_storage.model_dump_json(by_alias=True)], check=True, timeout=300)
    assert (tmp_path / "copy").stat().st_size == 400 << 20


def test_a_copy_with_another_digest_is_refused_and_not_left_behind(store: Store, tmp_path: Path) -> None:
    store.put_bytes(b"hullo", "a")
    expected = hashlib.sha256(b"hello").hexdigest()
    with pytest.raises(CorruptObjectError, match=expected) as caught:
        store.get_file("a", tmp_path / "copy", expected)
    assert caught.value.found == hashlib.sha256(b"hullo").hexdigest()
    assert list(tmp_path.glob("*copy*")) == []


def test_listing_and_deleting_stay_below_their_prefix(store: Store) -> None:
    for location in ("a/x", "a/b/y", "ab/z", "c"):
        store.put_bytes(location.encode(), location)
    assert listed(store, "a/") == {"a/x": 3, "a/b/y": 5}
    assert set(listed(store)) == {"a/x", "a/b/y", "ab/z", "c"}
    store.delete("a/")
    assert set(listed(store)) == {"ab/z", "c"}
    store.delete("c")
    assert set(listed(store)) == {"ab/z"}


def test_more_objects_than_one_request_lists_or_deletes(store: Store) -> None:
    def put(number: int) -> None:
        store.put_bytes(b"", f"many/{number:05d}")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(1100)))
    assert len(listed(store, "many/")) == 1100
    store.delete("many/")
    assert listed(store) == {}


def test_a_conditional_put_happens_once(store: Store) -> None:
    assert store.put_if_absent(b"first", "manifest.json")
    assert not store.put_if_absent(b"second", "manifest.json")
    assert store.read("manifest.json") == b"first"


def test_a_conditional_put_repeated_after_a_lost_answer_has_succeeded(store: Store) -> None:
    assert store.put_if_absent(b"mine", "manifest.json")
    assert store.put_if_absent(b"mine", "manifest.json")


def test_of_many_conditional_puts_at_once_one_succeeds(real_storage: Storage) -> None:
    store = open_store(real_storage)
    barrier = threading.Barrier(16)

    def put(number: int) -> bool:
        barrier.wait()
        return store.put_if_absent(str(number).encode(), "manifest.json")

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(put, range(16)))
    found = store.read("manifest.json")
    assert found is not None
    assert [number for number, won in enumerate(outcomes) if won] == [int(found)]


@pytest.mark.parametrize(
    "location",
    ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/", "a\\b", "a\0b", f"{PRIVATE}/x"],
)
def test_locations_that_lead_out_of_the_store_are_refused(store: Store, tmp_path: Path, location: str) -> None:
    for act in (
        lambda: store.put_bytes(b"x", location),
        lambda: store.put_if_absent(b"x", location),
        lambda: store.read(location),
        lambda: store.sha256(location),
        lambda: store.local(location),
        lambda: store.get_file(location, tmp_path / "copy"),
        lambda: store.put_file(Path(__file__), location),
    ):
        with pytest.raises(PermanentError) as caught:
            act()
        assert caught.value.reason == "LocationInvalid"


@pytest.mark.parametrize("prefix", ["../", "/", "a/../../", "a"])
def test_prefixes_that_lead_out_of_the_store_are_refused(store: Store, prefix: str) -> None:
    with pytest.raises(PermanentError, match=r"is not a path|does not end"):
        list(store.list(prefix))


def test_only_small_documents_are_read_whole(store: Store) -> None:
    store.put_bytes(b"x" * 100, "a")
    with pytest.raises(PermanentError) as caught:
        store.read("a", limit=99)
    assert caught.value.reason == "DocumentTooLarge"


# Opening.


@pytest.mark.parametrize("uri", ["file://relative/path", "s3:///no-bucket", "file://", "file:///a%00b", "file://[x"])
def test_a_storage_uri_that_names_no_place_is_refused(uri: str) -> None:
    with pytest.raises(PermanentError, match=r"file:///|absolute"):
        open_store(Storage.model_construct(uri=uri, endpoint=None, region=None))


def test_a_file_uri_may_hold_spaces(tmp_path: Path) -> None:
    directory = tmp_path / "with space"
    store = open_store(Storage(uri=directory.as_uri()))
    store.put_bytes(b"x", "a")
    assert (directory / "a").read_bytes() == b"x"


# The file store's own.


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path / "store")
    store.put_bytes(b"before", "a")
    local = tmp_path / "local"
    local.write_bytes(b"after")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(TransientError) as caught:
        store.put_file(local, "a")
    assert caught.value.reason == "DiskFull"
    assert (tmp_path / "store" / "a").read_bytes() == b"before"
    assert list((tmp_path / "store" / PRIVATE).iterdir()) == []


def test_a_file_system_without_hard_links_still_puts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = FileStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda n: store.put_if_absent(str(n).encode(), "a"), range(8)))
    assert sum(outcomes) == 1


def test_what_a_killed_process_left_half_written_is_not_listed_and_goes_in_time(tmp_path: Path) -> None:
    private = tmp_path / PRIVATE
    private.mkdir()
    old, young = private / "old", private / "young"
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    young.write_bytes(b"half")
    store = FileStore(tmp_path)
    assert listed(store) == {}
    store.put_bytes(b"x", "a")
    assert not old.exists()
    assert young.exists()


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """On a real file system of 1 MiB, in a mount name space of its own."""
    script = f"""
from pathlib import Path
from evolution_jobs.contract.errors import TransientError
from evolution_jobs.store.file import FileStore
root = Path({str(tmp_path)!r}) / "small"
store = FileStore(root)
store.put_bytes(b"kept", "a")
try:
    store.put_file(Path({str(tmp_path)!r}) / "large", "b")
except TransientError as error:
    assert error.reason == "DiskFull", error.reason
    assert str(root / "b") in str(error), str(error)
    assert dict(store.list("")) == {{"a": 4}}
    assert store.read("a") == b"kept"
    print("named")
"""
    (tmp_path / "small").mkdir()
    (tmp_path / "large").write_bytes(bytes(2 << 20))
    answer = in_small_file_system(tmp_path / "small", "1m", [sys.executable, "-c", script])
    assert answer.stdout.strip() == "named", answer.stderr


def in_small_file_system(directory: Path, size: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command that sees a tmpfs of that size at `directory`."""
    wrapper = small_file_system(directory, size)
    return subprocess.run([*wrapper, *command], capture_output=True, text=True, timeout=300)


def small_file_system(directory: Path, size: str) -> tuple[str, ...]:
    """The words before a command that make it see a tmpfs of that size at `directory`; skips where none may be made."""
    user = () if os.geteuid() == 0 else ("--map-root-user",)
    mount = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    wrapper = ("unshare", *user, "--mount", "sh", "-c", mount, str(directory))
    if shutil.which("unshare") is None or subprocess.run([*wrapper, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system of its own")
    return wrapper


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o500)
    with pytest.raises(PermanentError, match=str(root)) as caught:
        FileStore(root).put_bytes(b"x", "a")
    assert caught.value.reason == "StorageDenied"


def test_a_file_where_the_storage_directory_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match=str(tmp_path / "file")):
        FileStore(tmp_path / "file").put_bytes(b"x", "a")


@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [
        (errno.ENOSPC, TransientError, "DiskFull"),
        (errno.EDQUOT, TransientError, "DiskFull"),
        (errno.EACCES, PermanentError, "StorageDenied"),
        (errno.EROFS, PermanentError, "StorageDenied"),
        (errno.ENOTDIR, PermanentError, "StorageInvalid"),
        (errno.EIO, TransientError, "StorageUnreachable"),
        (errno.ESTALE, TransientError, "StorageUnreachable"),
    ],
)
def test_what_errors_of_the_file_system_mean(number: int, kind: type[StageError], reason: str) -> None:
    error = disk_error(OSError(number, os.strerror(number), "/some/file"), "/elsewhere")
    assert type(error) is kind
    assert error.reason == reason
    assert "/some/file" in str(error)


# What S3 says when it refuses.


@contextmanager
def answering_server(status: int, body: bytes, length: int | None = None) -> Iterator[str]:
    """An endpoint that answers every request alike; `length` is what it claims the body's length to be."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.send_header("ETag", '"tag"')
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as endpoint:
        yield endpoint


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """An endpoint whose requests the handler answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def refusing_server(status: int, code: str, words: str = "the server's words") -> AbstractContextManager[str]:
    """An S3 that answers every request with one error."""
    body = f"<Error><Code>{code}</Code><Message>{words}</Message></Error>"
    return answering_server(status, body.encode())


REFUSALS = [
    (403, "AccessDenied", PermanentError, "StorageDenied"),
    (403, "InvalidAccessKeyId", PermanentError, "StorageDenied"),
    (403, "SignatureDoesNotMatch", PermanentError, "StorageDenied"),
    (400, "ExpiredToken", PermanentError, "StorageDenied"),
    (403, "RequestTimeTooSkewed", TransientError, "ClockWrong"),
    (404, "NoSuchBucket", PermanentError, "BucketMissing"),
    (400, "XMinioAdminBucketQuotaExceeded", TransientError, "StorageFull"),
    (507, "XMinioStorageFull", TransientError, "StorageFull"),
    (400, "RequestTimeout", TransientError, "StorageUnreachable"),
    (503, "SlowDown", TransientError, "StorageUnreachable"),
    (500, "InternalError", TransientError, "StorageUnreachable"),
    (501, "NotImplemented", PermanentError, "StorageInvalid"),
    (418, "Teapot", PermanentError, "StorageInvalid"),
]


@pytest.mark.parametrize(("status", "code", "kind", "reason"), REFUSALS)
@pytest.mark.usefixtures("s3_environment", "impatient")
def test_what_a_refusal_means(status: int, code: str, kind: type[StageError], reason: str, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"x")
    with refusing_server(status, code) as endpoint:
        store = open_store(Storage(uri="s3://some-bucket/prefix", endpoint=endpoint))
        for act in (
            lambda: store.put_bytes(b"x", "a"),
            lambda: store.put_if_absent(b"x", "a"),
            lambda: store.put_file(tmp_path / "local", "a"),
            lambda: store.read("a"),
            lambda: list(store.list("")),
        ):
            with pytest.raises(StageError) as caught:
                act()
            assert type(caught.value) is kind
            assert caught.value.reason == reason
            message = str(caught.value)
            assert "some-bucket" in message
            assert endpoint in message
            assert "\n" not in message
            assert ACCESS_KEY not in message
            assert SECRET_KEY not in message


@pytest.mark.usefixtures("s3_environment", "impatient")
def test_a_disk_that_fills_up_under_an_upload_is_said() -> None:
    """As MinIO says it: an internal error whose cause is the disk."""
    with refusing_server(500, "InternalError", "try again.: cause(no space left on device)") as endpoint:
        with pytest.raises(TransientError, match="some-bucket") as caught:
            open_store(Storage(uri="s3://some-bucket", endpoint=endpoint)).put_bytes(b"x", "a")
        assert caught.value.reason == "StorageFull"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between botocore's tries."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


@pytest.mark.usefixtures("s3_environment")
def test_a_refused_connection_is_said_after_bounded_tries() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    store = open_store(Storage(uri="s3://some-bucket", endpoint=endpoint))
    with pytest.raises(TransientError, match=f"some-bucket at {endpoint}.*refused") as caught:
        store.read("a")
    assert caught.value.reason == "StorageUnreachable"


@pytest.mark.usefixtures("s3_environment", "impatient")
def test_something_that_is_no_s3_is_said() -> None:
    with answering_server(404, b"<html>a web page") as endpoint:
        store = open_store(Storage(uri="s3://some-bucket", endpoint=endpoint))
        for act in (lambda: store.read("a"), lambda: list(store.list("")), lambda: store.put_bytes(b"x", "a")):
            with pytest.raises(PermanentError, match="S3 service") as caught:
                act()
            assert caught.value.reason == "StorageInvalid"


@pytest.mark.parametrize("header", [("Location", "/elsewhere"), ("X-Some", "thing")])
@pytest.mark.usefixtures("s3_environment", "impatient")
def test_a_redirect_and_a_web_page_are_said(header: tuple[str, str]) -> None:
    """A redirect to https is followed by botocore for ever; a web page has no ETag."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(301 if header[0] == "Location" else 200)
            self.send_header(*header)
            self.end_headers()
            self.wfile.write(b"<html>")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as endpoint:
        with pytest.raises(PermanentError, match="redirects or is not an S3 service") as caught:
            open_store(Storage(uri="s3://some-bucket", endpoint=endpoint)).read("a")
        assert caught.value.reason == "StorageInvalid"
        assert endpoint in str(caught.value)


def test_a_silent_endpoint_is_given_up_on_in_about_a_minute() -> None:
    options = vars(client_config(None))
    assert options["retries"]["total_max_attempts"] * max(options["read_timeout"], options["connect_timeout"]) <= 60


@pytest.mark.parametrize("endpoint", ["http://[::1", "http://user:secret@a b:xx/"])
@pytest.mark.usefixtures("s3_environment")
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    storage = Storage(uri="s3://some-bucket").model_copy(update={"endpoint": endpoint})
    with pytest.raises(PermanentError, match=r"storage\.endpoint") as caught:
        open_store(storage)
    assert caught.value.reason == "StorageInvalid"
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("s3_environment", "impatient")
def test_an_answer_that_breaks_off_is_never_taken_for_the_whole(tmp_path: Path) -> None:
    with answering_server(200, b"half", length=8) as endpoint:
        store = open_store(Storage(uri="s3://some-bucket", endpoint=endpoint))
        for act in (
            lambda: store.read("a"),
            lambda: store.sha256("a"),
            lambda: store.get_file("a", tmp_path / "copy"),
        ):
            with pytest.raises(TransientError, match="some-bucket") as caught:
                act()
            assert caught.value.reason == "StorageUnreachable"
        assert list(tmp_path.glob("*copy*")) == []


@pytest.mark.usefixtures("s3_environment")
def test_missing_credentials_are_said(monkeypatch: pytest.MonkeyPatch, moto: str) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = open_store(Storage(uri="s3://some-bucket", endpoint=moto))
    with pytest.raises(PermanentError, match="AWS_ACCESS_KEY_ID") as caught:
        store.put_bytes(b"x", "a")
    assert caught.value.reason == "CredentialsMissing"


@pytest.mark.usefixtures("s3_environment")
def test_an_unknown_profile_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(PermanentError) as caught:
        open_store(Storage(uri="s3://some-bucket"))
    assert caught.value.reason == "CredentialsMissing"


def test_an_endpoint_is_shown_without_its_password() -> None:
    assert shown_endpoint("http://user:secret@host:9000/x") == "http://host:9000/x"


@pytest.mark.parametrize("server", ["moto", pytest.param("minio", marks=pytest.mark.minio)])
@pytest.mark.usefixtures("s3_environment")
def test_a_missing_bucket_is_said(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    endpoint = request.getfixturevalue(server)
    store = open_store(Storage(uri="s3://never-made", endpoint=endpoint))
    for act in (
        lambda: store.put_bytes(b"x", "a"),
        lambda: store.put_file(Path(__file__), "a"),
        lambda: store.put_if_absent(b"x", "a"),
        lambda: store.read("a"),
        lambda: list(store.list("")),
    ):
        with pytest.raises(PermanentError, match="bucket never-made does not exist") as caught:
            act()
        assert caught.value.reason == "BucketMissing"


@pytest.mark.minio
@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.usefixtures("s3_environment")
def test_wrong_credentials_are_said_and_not_shown(variable: str, minio: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = s3_storage(minio)
    monkeypatch.setenv(variable, "wrong-wrong-wrong")
    store = open_store(storage)
    for act in (lambda: store.put_bytes(b"x", "a"), lambda: store.read("a")):
        with pytest.raises(PermanentError, match="refuses these credentials") as caught:
            act()
        assert caught.value.reason == "StorageDenied"
        assert "wrong-wrong" not in str(caught.value)
        assert SECRET_KEY not in str(caught.value)


@pytest.mark.minio
@pytest.mark.usefixtures("s3_environment", "impatient")
def test_a_full_minio_is_said_and_keeps_nothing_of_the_upload(tmp_path: Path) -> None:
    program = find_minio()
    if program is None:
        pytest.skip("no MinIO")
    directory = tmp_path / "data"
    directory.mkdir()
    with minio_server(program, directory, small_file_system(directory, "96m")) as endpoint:
        make_bucket(endpoint, "small")
        store = open_store(Storage(uri="s3://small", endpoint=endpoint))
        store.put_bytes(b"kept", "a")
        with (tmp_path / "large").open("wb") as large:
            large.truncate(256 << 20)
        with pytest.raises(TransientError, match="bucket small") as caught:
            store.put_file(tmp_path / "large", "b")
        assert caught.value.reason == "StorageFull"
        assert listed(store) == {"a": 4}


@pytest.mark.minio
@pytest.mark.usefixtures("s3_environment", "impatient")
@pytest.mark.parametrize("patience", [0, 120])
def test_an_upload_during_which_minio_restarts_is_not_there_or_whole(patience: float, tmp_path: Path) -> None:
    program = find_minio()
    if program is None:
        pytest.skip("no MinIO")
    directory, port = tmp_path / "data", free_port()
    local = tmp_path / "adapter.safetensors"
    local.write_bytes(os.urandom(256 << 20))
    with ThreadPoolExecutor(1) as pool:
        with minio_server(program, directory, port=port) as endpoint:
            store = PatientStore(open_store(s3_storage(endpoint)), patience, True, time.sleep)
            upload = pool.submit(store.put_file, local, "adapter")
            parts = directory / ".minio.sys/multipart"
            wait_until(lambda: any(parts.rglob("part.1")) or upload.done(), "a part has arrived")
            assert not upload.done(), "the upload is under way"
        if not patience:
            with pytest.raises(TransientError, match="cannot reach"):
                upload.result(120)
        with minio_server(program, directory, port=port):
            if not patience:
                assert store.read("adapter") is None
                store.put_file(local, "adapter")
            else:
                upload.result(120)
            store.get_file("adapter", tmp_path / "copy", hashlib.sha256(local.read_bytes()).hexdigest())
