"""Commands on one node wait for each other, and images keep the names that Pods ask for.

No node runs here: `ctr` is a fake that keeps a list of images. tests/cluster uses the real one.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest

from hack.cluster import ClusterError
from hack.cluster.node import Node, locked

CTR = """#!{python}
import json, sys
from pathlib import Path
state = Path({state!r})
images = json.loads(state.read_text())
action, *words = sys.argv[4:]
if action == "list":
    print("REF TYPE DIGEST")
    for name, digest in images.items():
        print(name, "application/vnd.oci.image.index.v1+json", digest)
if action == "import":
    images.update(json.loads(Path(words[0]).read_text()))
if action == "tag":
    images[words[-1]] = images[words[-2]]
if action == "remove":
    del images[words[0]]
state.write_text(json.dumps(images))
"""
"""An archive is a list of names and digests here."""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    programs = tmp_path / "programs"
    programs.mkdir()
    state = tmp_path / "images"
    state.write_text("{}")
    (programs / "ctr").write_text(CTR.format(python=sys.executable, state=str(state)))
    (programs / "ctr").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    made = Node(tmp_path / "node")
    monkeypatch.setattr(type(made.containerd.process), "pid", 1)
    return made


def _archive(tmp_path: Path, images: dict[str, str]) -> Path:
    path = tmp_path / "image.tar"
    path.write_text(json.dumps(images))
    return path


def test_an_image_is_found_under_the_name_that_the_kubelet_asks_for(
    node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node.load(_archive(tmp_path, {"evolution-operator/operator:0.1.0": "sha256:1", "sha256:ff": "sha256:1"}))
    assert node.containerd.has("docker.io/evolution-operator/operator:0.1.0")
    assert not node.containerd.has("evolution-operator/operator:0.1.0")
    assert capsys.readouterr().out == "loaded docker.io/evolution-operator/operator:0.1.0\n"


def test_an_archive_that_is_loaded_again_says_so(
    node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = _archive(tmp_path, {"localhost/a:1": "sha256:1"})
    node.load(archive)
    node.load(archive)
    assert capsys.readouterr().out == f"loaded localhost/a:1\n{archive}: its images are loaded already\n"


def test_an_archive_with_a_name_that_no_pod_can_ask_for_is_refused(node: Node, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"image\.tar: 'localhost/A:1' is no image name"):
        node.load(_archive(tmp_path, {"localhost/A:1": "sha256:1"}))


def test_an_image_under_a_second_name_is_not_copied_again(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = []

    def export(tag: str, archive: Path) -> None:
        exported.append(tag)
        archive.write_text(json.dumps({tag: "sha256:1"}))

    monkeypatch.setattr("hack.cluster.node.export", export)
    monkeypatch.setattr("hack.cluster.node.CACHE", tmp_path)
    node.state.mkdir(exist_ok=True)
    for tag in ("localhost/a:1", "localhost/b:1", "localhost/b:1"):
        node.load_image(tag, "the image")
    assert exported == ["localhost/a:1"]
    assert node.containerd.has("localhost/b:1")
    node.load_image("localhost/b:1", "a newer image")
    assert exported == ["localhost/a:1", "localhost/b:1"]


def test_loading_waits_for_a_node_that_comes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, order = tmp_path / "node", []
    waits = threading.Event()
    monkeypatch.setattr("builtins.print", lambda *words, **_: (order.append(words[0]), waits.set()))

    def load() -> None:
        with locked(state, patience=60):
            order.append("loaded")

    with locked(state):
        loader = threading.Thread(target=load)
        loader.start()
        assert waits.wait(30)
        order.append("up")
    loader.join()
    assert order == ["another command is changing this node: waiting up to 1 min for it", "up", "loaded"]


def test_a_node_that_does_not_come_up_is_reported_in_one_sentence(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "node"),
        pytest.raises(ClusterError, match="try again once it has ended"),
        locked(tmp_path / "node", patience=0.1),
    ):
        pytest.fail("two commands change one node")
