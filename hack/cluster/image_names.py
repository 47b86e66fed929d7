"""Full names of images, as containerd and the kubelet know them."""

from __future__ import annotations

import re

DEFAULT_REGISTRY = "docker.io"
_WORD = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REGISTRY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?")
_REMAINDER = re.compile(
    rf"(?P<path>{_WORD}(?:/{_WORD})*)(?P<tag>:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?P<digest>@sha256:[0-9a-f]{{64}})?"
)


def full_name(image: str) -> str:
    """The name with which a kubelet requests an image that a manifest calls ``image``.

    ``evolution-operator/operator:0.1.0`` becomes ``docker.io/evolution-operator/operator:0.1.0`` and ``minio``
    becomes ``docker.io/library/minio:latest``. A full name stays as it is. The rules are those of
    ParseDockerRef (github.com/distribution/reference, containerd's parser): the first part is a registry only if it has
    a dot, a colon or a capital letter or is ``localhost``, and a digest makes the tag irrelevant.

    Raises:
        ValueError: ``image`` is not an image name.
    """
    registry, remainder = _split(image)
    parts = _REMAINDER.fullmatch(remainder)
    if parts is None or not _REGISTRY.fullmatch(registry):
        raise ValueError(f"{image!r} is no image name: write it as REGISTRY/NAME:TAG, its name in small letters")
    path = parts["path"]
    if registry == DEFAULT_REGISTRY and "/" not in path:
        path = f"library/{path}"
    return f"{registry}/{path}{parts['digest'] or parts['tag'] or ':latest'}"


def _split(image: str) -> tuple[str, str]:
    """The registry and the rest of the name."""
    first, slash, rest = image.partition("/")
    if slash and (first == "localhost" or any(mark in first for mark in ".:") or first != first.lower()):
        return (DEFAULT_REGISTRY if first == f"index.{DEFAULT_REGISTRY}" else first), rest
    return DEFAULT_REGISTRY, image
