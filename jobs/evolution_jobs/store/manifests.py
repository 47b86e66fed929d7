"""Manifests in a store: read, published once, checked against their files, and withdrawn if those are corrupt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from pydantic import ValidationError

from ..contract.errors import PermanentError, TransientError
from ..contract.keys import attempt_prefix, manifest_path, model_prefix
from ..contract.manifest import Manifest, Output, content_digest
from .base import Store

LOOKUPS = 16
"""Requests in flight at once while a run's keys are looked up."""


class CorruptManifestError(TransientError):
    """The manifest at a key cannot be read, or is another key's."""

    def __init__(self, key: str, detail: str) -> None:
        super().__init__("ManifestCorrupt", f"{manifest_path(key)}: {detail}")


class UnknownManifestError(PermanentError):
    """The manifest at a key has a version that this code does not know. It is sound, and stays."""

    def __init__(self, key: str, detail: str) -> None:
        super().__init__(
            "ManifestUnknown",
            f"{manifest_path(key)}: {detail}: another version of evolution-operator wrote it; use that version's images",
        )


def read_manifest(store: Store, key: str) -> Manifest | None:
    """The manifest of a finished stage, or None. Raises CorruptManifestError, UnknownManifestError."""
    stored = store.read(manifest_path(key))
    if stored is None:
        return None
    try:
        manifest = Manifest.stored(stored)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        version = next((fault["input"] for fault in faults if fault["loc"] == ("version",)), None)
        if isinstance(version, str):
            raise UnknownManifestError(key, f"version: {version[:100]!r} is not known") from error
        field = ".".join(map(str, faults[0]["loc"]))
        raise CorruptManifestError(key, f"{field or 'document'}: {faults[0]['msg']}") from error
    if manifest.key != key:
        raise CorruptManifestError(key, f"names the key {manifest.key}")
    for name, output in manifest.outputs.items():
        places = (f"{attempt_prefix(key, manifest.attempt)}{name}/", model_prefix(output.digest))
        for file in output.files:
            if file.location not in [f"{place}{file.path}" for place in places]:
                raise CorruptManifestError(key, f"outputs.{name}: {file.path} lies at {file.location}")
        # Keys and inputs name an output by its digest alone.
        if output.files and output.digest != content_digest((file.path, file.sha256) for file in output.files):
            raise CorruptManifestError(key, f"outputs.{name}: its digest is not that of its files")
    return manifest


def publish(store: Store, manifest: Manifest) -> Manifest:
    """Publish a stage's manifest unless another attempt was first. Returns the manifest in force."""
    data = json.dumps(manifest.wire(), ensure_ascii=False, indent=1, allow_nan=False).encode()
    if store.put_if_absent(data, manifest_path(manifest.key)):
        return manifest
    winner = read_manifest(store, manifest.key)
    if winner is None:
        raise TransientError(
            "ManifestWithdrawn", f"{manifest_path(manifest.key)} was withdrawn in the meantime; try again"
        )
    return winner


Check = Callable[[Store, Manifest], list[str]]
"""What is wrong with the files that a manifest names: `missing_files` or `corrupt_files`."""


def missing_files(store: Store, manifest: Manifest) -> list[str]:
    """Each file that is missing or has the wrong size, with what is wrong with it. Lists the store, reads no file."""
    found = dict(store.list(attempt_prefix(manifest.key, manifest.attempt)))
    for output in copied_models(manifest):
        found |= dict(store.list(model_prefix(output.digest)))
    faults: list[str] = []
    for file in manifest.files:
        if file.location not in found:
            faults.append(f"{file.location} is missing")
        elif found[file.location] != file.size:
            faults.append(f"{file.location} has {found[file.location]} bytes instead of {file.size}")
    return faults


def corrupt_files(store: Store, manifest: Manifest) -> list[str]:
    """As `missing_files`; if no file is, each file whose sha256 differs. Reads every file."""
    if faults := missing_files(store, manifest):
        return faults
    found = ((file, store.sha256(file.location)) for file in manifest.files)
    return [
        f"{file.location}: expected sha256 {file.sha256}, found {digest}"
        for file, digest in found
        if digest != file.sha256
    ]


def sound_manifest(store: Store, key: str, check: Check, unsound: Callable[[str], None]) -> Manifest | None:
    """The manifest at a key, or None if none is published there or it is unsound.

    It is unsound if it cannot be read as that key's or `check` finds a fault; `unsound` is then called with what is
    wrong. Raises UnknownManifestError.
    """
    try:
        manifest = read_manifest(store, key)
    except CorruptManifestError as error:
        unsound(str(error))
        return None
    if manifest is not None and (faults := check(store, manifest)):
        unsound("; ".join(faults))
        return None
    return manifest


def retract(store: Store, key: str, why: str) -> None:
    """Withdraw a published stage, so that it runs again. Its manifest is kept below `stages/<key>/retracted/`.

    If the stage has copied a model, the model's corrupt files are deleted. The next copy skips the others.
    """
    stored = store.read(manifest_path(key))
    if stored is None:
        return
    try:
        manifest = Manifest.stored(stored)
    except ValidationError:
        manifest = None
    record = {"why": why, "manifest": stored.decode("utf-8", "replace")}
    name = manifest.attempt if manifest else "unreadable"
    store.put_bytes(json.dumps(record, ensure_ascii=False, indent=1).encode(), f"stages/{key}/retracted/{name}.json")
    store.delete(manifest_path(key))
    for file in [file for output in copied_models(manifest) for file in output.files] if manifest else []:
        if store.sha256(file.location) != file.sha256:
            store.delete(file.location)


def published(store: Store, keys: Iterable[str]) -> dict[str, Manifest]:
    """Manifests of those keys that are published with all their files, checked by existence and size."""

    def look_up(key: str) -> Manifest | None:
        try:
            return sound_manifest(store, key, missing_files, unsound=lambda _fault: None)
        except UnknownManifestError:
            return None

    wanted = list(keys)
    with ThreadPoolExecutor(LOOKUPS) as pool:
        found = zip(wanted, pool.map(look_up, wanted), strict=True)
        return {key: manifest for key, manifest in found if manifest is not None}


def copied_models(manifest: Manifest) -> list[Output]:
    """Outputs that are stored under their digest and not under the attempt."""
    return [
        output
        for output in manifest.outputs.values()
        if output.files and output.files[0].location.startswith(model_prefix(output.digest))
    ]
