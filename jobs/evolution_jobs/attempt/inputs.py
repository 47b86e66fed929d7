"""Inputs of a stage: found by key, verified file by file, provided as local directories."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from ..contract.errors import PermanentError, TransientError
from ..contract.keys import manifest_path, stage_key
from ..contract.manifest import File, Manifest, Output
from ..contract.stage import Input, StageSpec
from ..store.base import CorruptObjectError, MissingObjectError, Store, inside, verified_local
from ..store.manifests import CorruptManifestError, read_manifest, retract
from .model_cache import ModelCache

log = logging.getLogger(__name__)


class InputError(TransientError):
    """An input is missing or corrupt. `stage` made it, and must run again first."""

    def __init__(self, reason: str, message: str, stage: str) -> None:
        super().__init__(reason, message)
        self.stage = stage


def read_input_manifests(store: Store, spec: StageSpec) -> dict[str, Manifest]:
    """The manifest of the stage that makes each input, by input name. Unpublished ones are left out.

    Raises InputError `InputCorrupt` if a manifest cannot be read; it is then withdrawn.
    """
    manifests: dict[str, Manifest] = {}
    for name, source in spec.inputs.items():
        try:
            manifest = read_manifest(store, source.key)
        except CorruptManifestError as error:
            retract(store, source.key, str(error))
            raise InputError(
                "InputCorrupt", f"input {name}: {error}; stage {source.stage} runs again", source.stage
            ) from error
        if manifest is not None:
            manifests[name] = manifest
    return manifests


def check_key(spec: StageSpec, manifests: Mapping[str, Manifest]) -> None:
    """Raise PermanentError `KeyMismatch` if the spec's key does not follow from its settings, seed and inputs.

    Somebody has edited such a spec, or another version of this project wrote it. Its result must not be published
    under that key, because other runs would take it for something else.
    """
    inputs: dict[str, str] = {}
    for name, source in spec.inputs.items():
        if source.stage != "prepare":
            inputs[name] = f"{source.key}/{source.output}"
        elif name in manifests:
            inputs[name] = _output(name, source, manifests[name]).digest
        else:
            return
    _require_key("key", spec.key, stage_key(spec.kind, spec.settings, spec.seed, inputs))
    if spec.ahead:
        inputs["responses"] = f"{spec.key}/responses"
        if spec.ahead.settings.reward and not spec.ahead.settings.reward.judge:
            # reflect reads the reward model, and generate does not. Both read contexts, from the stage that made it.
            source = spec.inputs["contexts"].model_copy(update={"output": "reward-model"})
            inputs["reward-model"] = _output("reward-model", source, manifests["contexts"]).digest
        _require_key("ahead.key", spec.ahead.key, stage_key("reflect", spec.ahead.settings, spec.ahead.seed, inputs))


def _require_key(field: str, key: str, expected: str) -> None:
    if key != expected:
        raise PermanentError(
            "KeyMismatch",
            f"{field}: {key} does not follow from the settings, seed and inputs, which give {expected}; was the spec "
            "edited, or made by another version of evolution-operator than the one that runs it?",
        )


def fetch_inputs(
    store: Store,
    spec: StageSpec,
    manifests: Mapping[str, Manifest],
    directory: Path,
    check_stop: Callable[[], None],
    cache: ModelCache | None = None,
) -> None:
    """Provide each input as `directory/<name>` with verified files: links into a local store or `cache`, else copies.

    Raises InputError `InputMissing` if the stage that makes an input is not published, `InputCorrupt` if a file is
    missing or has another digest; that stage's manifest is then withdrawn.
    """
    for name, source in spec.inputs.items():
        if name not in manifests:
            raise InputError(
                "InputMissing",
                f"input {name}: {manifest_path(source.key)} does not exist; stage {source.stage} must run first",
                source.stage,
            )
        target = directory / name
        target.mkdir(parents=True)
        for file in _output(name, source, manifests[name]).files:
            check_stop()
            try:
                _provide(store, file, inside(target, file.path), cache)
            except (CorruptObjectError, MissingObjectError) as error:
                retract(store, source.key, f"found by {spec.stage}: {error}")
                raise InputError(
                    "InputCorrupt", f"input {name}: {error}; stage {source.stage} runs again", source.stage
                ) from error


def digests(spec: StageSpec, manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Input name to the digest of the content that was read."""
    return {name: _output(name, source, manifests[name]).digest for name, source in spec.inputs.items()}


def references(spec: StageSpec, manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Input name to the location of its content, for inputs that were pinned and not copied."""
    found = {name: _output(name, source, manifests[name]).reference for name, source in spec.inputs.items()}
    return {name: reference for name, reference in found.items() if reference is not None}


def _output(name: str, source: Input, manifest: Manifest) -> Output:
    if source.output not in manifest.outputs:
        raise PermanentError(
            "InputMissing",
            f"input {name}: stage {source.stage} has no output {source.output} (it has {', '.join(manifest.outputs)})",
        )
    return manifest.outputs[source.output]


def _provide(store: Store, file: File, target: Path, cache: ModelCache | None) -> None:
    """Verify one file and make it readable at `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    stored = verified_local(store, file)
    if stored is None:
        try:
            _copy(store, file, target, cache)
        except CorruptObjectError as error:
            # To run a finished stage again is expensive, so rule out an error of the transfer first.
            log.warning("%s: read again", error)
            _copy(store, file, target, cache)
        return
    target.symlink_to(stored)


def _copy(store: Store, file: File, target: Path, cache: ModelCache | None) -> None:
    """Make a stored file readable at `target`: a copy, or a link to the one in the model cache."""
    if cache is not None and cache.keeps(file):
        target.symlink_to(cache.provide(store, file))
    else:
        store.get_file(file.location, target, file.sha256)
