"""Container images without Docker: built with buildah on a Debian base, or made from one program."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hack.cluster.binaries import CACHE
from hack.cluster.host import run, succeeds

SUITE = "bookworm"
BASE_PACKAGES = ("ca-certificates", "python3", "python3-venv")
BASE_IMAGE = f"localhost/evolution-operator/base:{SUITE}"
STORAGE = CACHE / "buildah"
RUNTIME = Path("/run/evolution-operator/buildah")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def build(dockerfile: Path, tag: str, context: Path, arguments: Mapping[str, str] | None = None) -> str:
    """Build an image and return its id. Unchanged steps come from buildah's cache.

    ``BASE_IMAGE`` is a minimal Debian with Python unless ``arguments`` contain another.

    Args:
        dockerfile: its path.
        tag: the full name of the image, registry host included.
        context: the folder that the Dockerfile copies from.
        arguments: build arguments.

    Raises:
        ClusterError: a step failed. The message is buildah's.
    """
    values = dict(arguments or {})
    if "BASE_IMAGE" not in values:
        values["BASE_IMAGE"] = _base()
    command = ["build-using-dockerfile", "--layers", "--network=host", f"--tag={tag}", f"--file={dockerfile}"]
    # The host's certificates: the package index may be behind a proxy that only the host trusts.
    command += ["--volume=/etc/ssl/certs:/etc/ssl/certs:ro"]
    command += [f"--build-arg={name}={value}" for name, value in values.items()]
    _buildah(*command, str(context))
    return _buildah("inspect", "--type=image", "--format={{.FromImageID}}", tag).strip()


def export(tag: str, archive: Path) -> None:
    """Write an image of `build` as an OCI archive, which a node can load.

    Raises:
        ClusterError: it could not be written. The message is buildah's.
    """
    archive.unlink(missing_ok=True)
    # The archive only crosses the local disk: compression would take longer than it saves.
    _buildah("push", "--disable-compression", tag, f"oci-archive:{archive}:{tag}")


def program_archive(program: Path, name: str, archive: Path) -> None:
    """Write an image as a Docker archive. It contains one static program, its entry point.

    ``name`` is the image's full name. The program runs as user and group 65532 unless a Pod sets others.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        entry = tarfile.TarInfo(program.name)
        entry.mode, entry.size = 0o755, program.stat().st_size
        with program.open("rb") as content:
            files.addfile(entry, content)
    configuration = {
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Entrypoint": [f"/{program.name}"], "User": "65532:65532"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, mode="w") as files:
        _add(files, "config.json", json.dumps(configuration).encode())
        _add(files, "layer.tar", layer.getvalue())
        _add(files, "manifest.json", json.dumps(manifest).encode())


def _base() -> str:
    """The base image. It is made once and kept in buildah's storage."""
    if succeeds(_command("inspect", "--type=image", BASE_IMAGE)):
        return BASE_IMAGE
    print(f"building {BASE_IMAGE} by mmdebstrap", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root.tar"
        run(["mmdebstrap", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}", SUITE, root])
        container = _buildah("from", "scratch").strip()
        try:
            _buildah("add", container, str(root), "/")
            _buildah("commit", container, BASE_IMAGE)
        finally:
            _buildah("rm", container)
    return BASE_IMAGE


def _buildah(*arguments: str) -> str:
    return run(_command(*arguments), environment={**os.environ, "BUILDAH_ISOLATION": "chroot"})


def _command(*arguments: str) -> list[str]:
    storage = [f"--root={STORAGE}", f"--runroot={RUNTIME}", "--storage-driver=overlay"]
    return ["buildah", *storage, *arguments]


def _add(files: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    files.addfile(entry, io.BytesIO(content))
