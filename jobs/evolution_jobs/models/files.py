"""The files of a model where they lie: in a directory, a bucket or on the hub. Weights are not fetched.

Small files are read as a whole, and of the weights only the headers.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract.errors import PermanentError, TransientError
from ..store.data_sources import blamed_on
from .hub import Pinned, explained
from .weights import LENGTH, Tensor, header_end, read_header

if TYPE_CHECKING:
    from ..store.s3_bucket import Bucket

FIELD = "baseModel"
"""The base model's path below `spec`."""

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Weights in one file, and the index of weights in several. transformers reads no others."""

UNREAD = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5", ".onnx", ".gguf", ".py")
"""Files that are never read: weights other than safetensors (some are pickles, which run code when read), and code."""

POINTER = b"version https://git-lfs"
"""Beginning of the file that git leaves in place of a large file that it has not fetched."""
FOREIGN = 64
"""Bytes that tell a pointer or a web page from a file."""
NEEDED = (".json", ".safetensors", ".jinja", ".model")
"""Files that are broken if they are empty."""
DOCUMENT = 512 << 20
"""Most bytes of a JSON file. The largest tokenizer has 35 MB."""
FIRST_READ = 64 << 10
"""Bytes of a weight file to read first: most headers of small models fit."""


class ModelFiles(ABC):
    """The files of one model directory. Every method names the model's field and URI in its errors."""

    def __init__(self, uri: str, sizes: Mapping[str, int], field: str = FIELD) -> None:
        """`sizes` has the bytes of every file directly in the directory; `field` is the model's path below `spec`."""
        self.uri = uri
        self.field = field
        self.sizes = sizes
        self._contents: dict[str, bytes] = {}

    @abstractmethod
    def start(self, name: str, count: int) -> bytes:
        """The first `count` bytes of a file, which has at least that many."""

    @property
    def weights(self) -> list[str]:
        """The weight files that transformers reads; empty if there are none, or the index names none."""
        if SINGLE in self.sizes:
            return [SINGLE]
        return sorted(set(self.weight_map.values()))

    @property
    def weight_map(self) -> dict[str, str]:
        """The file of each tensor by the index; empty without an index. Raises PermanentError `ModelMalformed`."""
        if INDEX not in self.sizes:
            return {}
        found = self.document(INDEX).get("weight_map")
        if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
            raise self.malformed(INDEX, "it has no weight_map: fetch it again")
        return found

    @property
    def read(self) -> list[str]:
        """The files that stages read: no hidden ones, no code, no pickles, and no second set of weights."""
        weights = self.weights
        return sorted(
            name
            for name in self.sizes
            if name[0] != "." and not name.endswith(UNREAD) and (name in weights or not name.endswith(".safetensors"))
        )

    def document(self, name: str) -> dict[str, Any]:
        """A JSON object. Raises PermanentError `ModelMalformed`."""
        if self.sizes[name] > DOCUMENT:
            raise self.malformed(name, f"it has more than {DOCUMENT >> 20} MiB: fetch it again")
        data = self._content(name)
        if fault := _foreign(data):
            raise self.malformed(name, fault)
        try:
            value = json.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise self.malformed(name, "it cannot be read as JSON: fetch it again") from error
        if not isinstance(value, dict):
            raise self.malformed(name, "it is no JSON object: fetch it again")
        return value

    def optional(self, name: str) -> dict[str, Any]:
        """A JSON object, empty if there is no such file. Raises PermanentError `ModelMalformed`."""
        return self.document(name) if name in self.sizes else {}

    def text(self, name: str) -> str:
        """A small text file, empty if there is none."""
        return self._content(name).decode("utf-8", "replace") if name in self.sizes else ""

    def _content(self, name: str) -> bytes:
        # Several checks read the same files, and each read of a bucket or the hub is a request.
        if name not in self._contents:
            self._contents[name] = self.start(name, self.sizes[name])
        return self._contents[name]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the weights. Raises PermanentError `ModelMalformed` if a file is cut off or of another kind."""
        found: dict[str, Tensor] = {}
        for name in self.weights:
            size = self.sizes[name]
            start = self.start(name, min(size, FIRST_READ))
            try:
                if (end := header_end(start[:LENGTH])) > len(start):
                    start = self.start(name, min(size, end))
                found |= read_header(start, size)
            except ValueError as error:
                raise self.malformed(
                    name, f"it is cut off or is not a safetensors file ({error}): fetch it again"
                ) from error
        return found

    def require_fetched(self) -> None:
        """Raise PermanentError `ModelMalformed` if a file that stages read holds something other than its content."""
        for name in self.read:
            if name.endswith(NEEDED) and (fault := _foreign(self.start(name, min(self.sizes[name], FOREIGN)))):
                raise self.malformed(name, fault)

    def malformed(self, name: str, fault: str) -> PermanentError:
        """The error for a file of the model."""
        return self.fault("ModelMalformed", f"{name}: {fault}")

    def fault(self, reason: str, words: str) -> PermanentError:
        """The error for what is wrong with the model."""
        return PermanentError(reason, f"{self.field}.uri: {self.uri}: {words}")


def _foreign(start: bytes) -> str | None:
    """What a file is that begins so, if it is not what its name says."""
    if not start:
        return "it is empty: fetch it again"
    if start.startswith(POINTER):
        return "it is a pointer of Git LFS and not the file: run `git lfs pull` there"
    if start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page, such as a login page, and not the file: fetch it again"
    return None


class DirectoryFiles(ModelFiles):
    """A model in a local directory."""

    def __init__(self, uri: str, directory: Path, field: str = FIELD) -> None:
        super().__init__(uri, {each.name: each.stat().st_size for each in directory.iterdir() if each.is_file()}, field)
        self._directory = directory

    def start(self, name: str, count: int) -> bytes:
        try:
            with (self._directory / name).open("rb") as file:
                return file.read(count)
        except (FileNotFoundError, PermissionError) as error:
            raise self.malformed(name, f"it cannot be read: {error.strerror}") from error
        except OSError as error:
            words = f"{self.field}.uri: {self.uri}: {name} cannot be read now: {error.strerror}"
            raise TransientError("ModelUnavailable", words) from error


class BucketFiles(ModelFiles):
    """A model below a prefix of a bucket."""

    def __init__(self, uri: str, bucket: Bucket, prefix: str, field: str = FIELD) -> None:
        with blamed_on(field, own_fields=False):
            found = {location.removeprefix(prefix): size for location, size in bucket.list(prefix)}
        super().__init__(uri, {name: size for name, size in found.items() if name and "/" not in name}, field)
        self._bucket = bucket
        self._prefix = prefix

    def start(self, name: str, count: int) -> bytes:
        if not count:
            return b""
        with blamed_on(self.field, own_fields=False):
            return self._bucket.start(self._prefix + name, count)

    def fetch(self, name: str, directory: Path) -> None:
        """Copy a file into a directory."""
        with blamed_on(self.field, own_fields=False):
            self._bucket.download(self._prefix + name, directory / name)


def hub_files(uri: str, pinned: Pinned, field: str = FIELD) -> ModelFiles:
    """The files of a model on the hub; offline, those in this machine's cache. Raises as `pin` does."""
    import huggingface_hub

    if not huggingface_hub.is_offline_mode():
        return HubFiles(uri, pinned, field)
    with explained(f"{field}.uri: {uri}"):
        root = huggingface_hub.snapshot_download(pinned.name, revision=pinned.commit, local_files_only=True)
    return DirectoryFiles(uri, Path(root), field)


class HubFiles(ModelFiles):
    """A model on the hub, at one commit."""

    def __init__(self, uri: str, pinned: Pinned, field: str = FIELD) -> None:
        import huggingface_hub

        with explained(f"{field}.uri: {uri}"):
            tree = huggingface_hub.HfApi().list_repo_tree(pinned.name, revision=pinned.commit)
            sizes = {each.path: each.size for each in tree if isinstance(each, huggingface_hub.hf_api.RepoFile)}
        super().__init__(uri, {name: size for name, size in sizes.items() if "/" not in name}, field)
        self._pinned = pinned

    def start(self, name: str, count: int) -> bytes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        if not count:
            return b""
        url = hf_hub_url(self._pinned.name, name, revision=self._pinned.commit)
        headers = {**build_hf_headers(), "Range": f"bytes=0-{count - 1}"}
        with (
            explained(f"{self.field}.uri: {self.uri}: {name}"),
            get_session().stream("GET", url, headers=headers, timeout=60) as answer,
        ):
            if answer.is_error:
                answer.read()
            hf_raise_for_status(answer)
            # A mirror may ignore the range and send the whole file, gigabytes: read no more than what was asked for.
            data = bytearray()
            for chunk in answer.iter_bytes():
                data += chunk
                if len(data) >= count:
                    break
            return bytes(data[:count])
