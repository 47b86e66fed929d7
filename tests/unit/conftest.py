"""Storage that tests run against: a directory, moto's S3, and a real MinIO where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from evolution_jobs.contract.settings import Storage

from tests.support.stages.runner import Runner
from tests.support.storage.servers import ACCESS_KEY, SECRET_KEY, find_minio, minio_server, moto_server, s3_storage

STORAGES = ["file", "moto", pytest.param("minio", marks=pytest.mark.minio)]


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """Endpoint of moto's server."""
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a real MinIO."""
    program = find_minio()
    if program is None:
        pytest.skip("no MinIO: set EVOLUTION_MINIO, or build it as docs/development says")
    with minio_server(program, tmp_path_factory.mktemp("minio") / "data") as endpoint:
        yield endpoint


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The test servers' credentials, and nothing of this machine's own."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest, tmp_path: Path, s3_environment: None) -> Storage:
    """Empty storage, of each kind in turn."""
    if request.param == "file":
        return Storage(uri=(tmp_path / "storage").as_uri())
    return s3_storage(request.getfixturevalue(request.param))


@pytest.fixture(params=["file", pytest.param("minio", marks=pytest.mark.minio)])
def real_storage(request: pytest.FixtureRequest, tmp_path: Path, s3_environment: None) -> Storage:
    """Empty storage, but for moto's: its conditional puts are not atomic, and it is slow with large files."""
    if request.param == "file":
        return Storage(uri=(tmp_path / "storage").as_uri())
    return s3_storage(request.getfixturevalue(request.param))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@pytest.fixture
def directory(tmp_path: Path) -> Storage:
    """Storage in a directory, where the kind of storage does not matter."""
    return Storage(uri=(tmp_path / "storage").as_uri())
