"""Names of images: what a manifest says is found under the name that the kubelet asks for."""

from __future__ import annotations

import pytest

from hack.cluster.__main__ import main
from hack.cluster.image_names import full_name

DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("evolution-operator/operator:0.1.0", "docker.io/evolution-operator/operator:0.1.0"),
        ("minio", "docker.io/library/minio:latest"),
        ("minio:1", "docker.io/library/minio:1"),
        ("docker.io/minio", "docker.io/library/minio:latest"),
        ("index.docker.io/minio:1", "docker.io/library/minio:1"),
        ("docker.io/library/minio:1", "docker.io/library/minio:1"),
        ("quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z", "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z"),
        ("localhost/operator:dev", "localhost/operator:dev"),
        ("localhost:5000/operator", "localhost:5000/operator:latest"),
        ("registry:5000/operator:1", "registry:5000/operator:1"),
        ("[::1]:5000/operator:1", "[::1]:5000/operator:1"),
        ("Registry/operator:1", "Registry/operator:1"),
        ("team/a__b/c--d.e:1", "docker.io/team/a__b/c--d.e:1"),
        (f"team/operator@{DIGEST}", f"docker.io/team/operator@{DIGEST}"),
        (f"team/operator:1@{DIGEST}", f"docker.io/team/operator@{DIGEST}"),
    ],
)
def test_a_short_name_is_completed_as_the_kubelet_does(image: str, full: str) -> None:
    assert full_name(image) == full
    assert full_name(full) == full, "a full name stays as it is"


@pytest.mark.parametrize(
    "image", ["", "/", "a//b", "Operator:1", "team/Operator:1", "a:", "a:b:c", "a b", "a@sha256:12", "-a/b.c/", ".x/a"]
)
def test_what_is_no_image_name_is_refused(image: str) -> None:
    with pytest.raises(ValueError, match="is no image name"):
        full_name(image)


@pytest.mark.parametrize(
    "command", [["load-program", "pause", "Pause:1"], ["image", "--file=Dockerfile", "--tag=Pause:1"]]
)
def test_the_command_says_so_and_builds_nothing(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["hack.cluster", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "'Pause:1' is no image name" in capsys.readouterr().err
