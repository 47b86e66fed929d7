"""The cache of the cluster's programs: keyed by what goes in, built once, never half there."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from hack.cluster import ClusterError, binaries


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "CACHE", tmp_path / "cache")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)


def _fake_go(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A ``go`` that notes each call and then does ``body``, with ``$OUT`` the file to write."""
    folder.mkdir()
    go = folder / "go"
    go.write_text(f'#!/bin/sh\necho called >> {folder}/calls\nwhile [ "$1" != -o ]; do shift; done\nOUT=$2\n{body}\n')
    go.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def _calls(folder: Path) -> int:
    return len((folder / "calls").read_text().splitlines())


def test_a_program_is_built_once_and_then_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_go(tmp_path / "go", monkeypatch, 'echo program > "$OUT"')
    paths = [binaries.program("helm"), binaries.program("helm")]
    assert paths[0] == paths[1]
    assert paths[0].read_text() == "program\n"
    assert _calls(tmp_path / "go") == 1


def test_two_builders_at_once_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first build ends only once the second builder says that it waits.
    waits = tmp_path / "waits"
    os.mkfifo(waits)
    said = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("waiting"):
            waits.write_text("go on")

    monkeypatch.setattr(binaries, "_say", say)
    _fake_go(tmp_path / "go", monkeypatch, f'cat {waits}; echo program > "$OUT"')
    builders = [threading.Thread(target=binaries.program, args=["helm"]) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert _calls(tmp_path / "go") == 1
    assert len([line for line in said if line.startswith("built")]) == 1


def test_a_failed_build_leaves_nothing_to_be_taken_for_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_go(tmp_path / "go", monkeypatch, 'echo half > "$OUT"; exit 1')
    with pytest.raises(ClusterError, match="could not build helm"):
        binaries.program("helm")
    assert not (binaries.PROGRAMS["helm"].directory / "helm").exists()


@pytest.mark.parametrize("changed", ["go.mod", "go.sum"])
def test_a_changed_pin_is_another_place_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    before = binaries.PROGRAMS["helm"].directory
    modules = shutil.copytree(binaries.MODULES, tmp_path / "modules")
    monkeypatch.setattr(binaries, "MODULES", modules)
    assert binaries.PROGRAMS["helm"].directory == before
    with (modules / "helm" / changed).open("a") as file:
        file.write("\n")
    assert binaries.PROGRAMS["helm"].directory != before


def test_kubebuilder_assets_are_used_where_they_hold_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    for name in ("etcd", "helm"):
        (assets / name).touch(mode=0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    _fake_go(tmp_path / "go", monkeypatch, 'echo program > "$OUT"')
    found = binaries.ensure(["etcd", "kubectl", "helm"])
    assert found["etcd"] == assets / "etcd"
    # envtest has no helm, and this folder no kubectl
    assert [found[name].is_relative_to(binaries.CACHE) for name in ("kubectl", "helm")] == [True, True]


def test_an_unknown_program_is_named_beside_the_known() -> None:
    with pytest.raises(ClusterError, match=r"unknown program 'kubeadm': one of .*kubectl"):
        binaries.ensure(["kubeadm"])


def test_every_pin_is_read() -> None:
    versions = {name: module.version for name, module in binaries.PROGRAMS.items() if module.path}
    assert all(version.startswith("v") and version != "v0.0.0" for version in versions.values())
    assert binaries.PROGRAMS["kubectl"].linker_flags().startswith("-s -w -X=k8s.io/component-base/version.gitVersion=v")
