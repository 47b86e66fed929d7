"""`make images chart sign`: docker, helm and cosign are stand-ins that write down how they are called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = "charts/evolution-operator"
VERSION = yaml.safe_load((ROOT / CHART / "Chart.yaml").read_text())["version"]
REGISTRY = "registry.example.com/owner/evolution"
DIGEST = f"sha256:{'1' * 64}"
COMMIT = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
STAND_INS = {
    "docker": """for word; do case $word in --metadata-file=*)
printf '{\\n  "buildx.build.ref": "builder/1",\\n  "containerimage.digest": "%s"\\n}' "$DIGEST" > "${word#*=}";; esac; done""",
    "helm": """test "$1" = push && { printf 'Pushed: %s\\nDigest: %s\\n' "$3" "$DIGEST" >&2; exit $PUSHED; }; exit 0""",
    "cosign": "",
    "git": f"echo {COMMIT}",
}


class Release:
    """What the targets need of a checkout, and the stand-ins."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls = directory / "calls"
        shutil.copytree(ROOT / CHART, directory / CHART)
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, directory / name)
        (directory / "programs").mkdir()
        for name, body in STAND_INS.items():
            path = directory / "programs" / name
            path.write_text(f'#!/bin/sh\necho "{name} $*" >> "$CALLS"\n{body}\n')
            path.chmod(0o755)

    def make(self, *words: str, pushed: int = 0) -> tuple[int, list[str]]:
        """The exit status, and the calls of docker, helm and cosign. ``pushed`` is the exit status of `helm push`."""
        self.calls.write_text("")
        own = {"CALLS": str(self.calls), "DIGEST": DIGEST, "PUSHED": str(pushed)}
        environment = {**os.environ, **own, "PATH": f"{self.directory / 'programs'}:{os.environ['PATH']}"}
        for name in ("MAKEFLAGS", "REGISTRY", "TAG"):
            environment.pop(name, None)
        done = subprocess.run(
            ["make", *words], cwd=self.directory, env=environment, capture_output=True, text=True, timeout=60
        )
        calls = self.calls.read_text().splitlines()
        return done.returncode, [call for call in calls if not call.startswith("git ")]


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path)


def test_every_image_is_pushed_with_sbom_and_provenance(release: Release) -> None:
    status, calls = release.make("images", f"REGISTRY={REGISTRY}")
    assert status == 0
    for call, name in zip(calls, ("operator", "train", "vllm"), strict=True):
        assert call.startswith(f"docker buildx build --file=images/{name}/Dockerfile ")
        assert (ROOT / f"images/{name}/Dockerfile").exists()
        words = set(call.split())
        assert {"--push", "--sbom=true", "--provenance=mode=max", f"--tag={REGISTRY}/{name}:{VERSION}"} <= words
        assert {f"--build-arg=VERSION={VERSION}", f"--build-arg=REVISION={COMMIT}"} <= words
        assert (release.directory / f"build/release/{name}.digest").read_text().strip() == DIGEST


def test_the_chart_that_is_pushed_runs_the_images_that_are_pushed(release: Release) -> None:
    status, calls = release.make("chart", f"REGISTRY={REGISTRY}")
    assert status == 0
    assert calls == [
        "helm package build/chart --destination=build/release",
        f"helm push build/release/evolution-operator-{VERSION}.tgz oci://{REGISTRY}/charts",
    ]
    values = yaml.safe_load((release.directory / "build/chart/values.yaml").read_text())
    assert values["image"]["repository"] == f"{REGISTRY}/operator"
    assert values["stages"]["image"]["repository"] == f"{REGISTRY}/train"
    assert (release.directory / "build/release/evolution-operator.digest").read_text().strip() == DIGEST


def test_a_chart_that_cannot_be_pushed_is_a_failure(release: Release) -> None:
    assert release.make("chart", f"REGISTRY={REGISTRY}", pushed=1)[0] == 2


def test_what_was_pushed_is_signed_by_its_digest(release: Release) -> None:
    release.make("images", "chart", f"REGISTRY={REGISTRY}")
    status, calls = release.make("sign", f"REGISTRY={REGISTRY}")
    assert status == 0
    names = ("operator", "train", "vllm", "charts/evolution-operator")
    assert calls == [f"cosign sign --yes {REGISTRY}/{name}@{DIGEST}" for name in names]


@pytest.mark.parametrize("target", ["images", "chart", "sign"])
def test_nothing_is_done_without_a_registry(target: str, release: Release) -> None:
    assert release.make(target) == (2, [])


def test_nothing_is_signed_that_was_not_pushed(release: Release) -> None:
    assert release.make("sign", f"REGISTRY={REGISTRY}") == (2, [])


@pytest.mark.parametrize(("tag", "status"), [(f"v{VERSION}", 0), (VERSION, 2), ("v9.9.9", 2), ("", 2)])
def test_a_tag_is_the_version_of_the_chart_and_of_the_package(tag: str, status: int, release: Release) -> None:
    assert release.make("release-version", f"TAG={tag}")[0] == status
    pyproject = release.directory / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace(f'version = "{VERSION}"', 'version = "9.9.9"'))
    assert release.make("release-version", f"TAG={tag}")[0] == 2
