"""What a verification finds, and how objects, inputs and keys are judged. Pure: no store, no file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice, product

from evolution_jobs.contract.keys import CODE_VERSIONS, MANIFEST, attempt_prefix, model_prefix, stage_key, stage_prefix
from evolution_jobs.contract.manifest import Manifest
from evolution_jobs.contract.settings import SETTINGS
from pydantic import ValidationError

PROVENANCE = "provenance.dsse.json"
"""Name of a stage's signed provenance, beside its manifest."""
LEFT = {
    "attempts": "files of another attempt",
    "rows": "rows of a finished stage",
    "checkpoints": "checkpoints of a finished stage",
    "claims": "claims of a finished stage",
    "retracted": "a withdrawn result",
}
"""First folder below a stage's prefix of what a stopped process may leave there, and what it is."""
TRIED = 64
"""Combinations of equal contents that are tried for a key."""


class Kind(StrEnum):
    """How serious a finding is."""

    missing = "missing"
    changed = "changed"
    unsigned = "unsigned"
    """Not signed, or not with the key that was named. The files may be intact."""
    foreign = "foreign"
    """Nothing of the run's, in a place where only its results belong."""
    left_over = "left over"
    """What a stopped process has left. The next cleanup takes it."""
    note = "note"


BAD = (Kind.missing, Kind.changed, Kind.unsigned)
"""With one of these, a run does not pass."""


@dataclass(frozen=True)
class Finding:
    """One thing that a verification has found."""

    kind: Kind
    stage: str
    """The stage's id; empty if it is of no stage."""
    message: str


@dataclass(frozen=True)
class VerifiedStage:
    """A finished stage that was looked at."""

    stage: str
    key: str
    files: int
    size: int
    """Bytes of its files."""
    computed_by: str
    """`namespace/name` of the run that published it."""


@dataclass
class Verification:
    """What a verification has looked at and found."""

    stages: list[VerifiedStage] = field(default_factory=list)
    signed: list[str] = field(default_factory=list)
    """Ids of the stages that have a signed provenance."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def intact(self) -> bool:
        """Whether nothing is missing or changed, and what must be signed is."""
        return not any(finding.kind in BAD for finding in self.findings)


def judge_objects(stage: str, manifest: Manifest, sizes: Mapping[str, int]) -> Iterator[Finding]:
    """What the list of objects says: files that are missing or have another size, and objects that no manifest names.

    `sizes` has all objects below the stage's prefix and below the copied models that its manifest names, by location.
    """
    files = {file.location: file for file in manifest.files}
    for location, file in files.items():
        if location not in sizes:
            yield Finding(Kind.missing, stage, f"{location} is missing")
        elif sizes[location] != file.size:
            yield Finding(Kind.changed, stage, f"{location} has {sizes[location]} bytes instead of {file.size}")
    prefix = stage_prefix(manifest.key)
    known = {*files, f"{prefix}{MANIFEST}", f"{prefix}{PROVENANCE}"}
    left: Counter[str] = Counter()
    for location in sorted(sizes.keys() - known):
        folder = location.removeprefix(prefix).partition("/")[0] if location.startswith(prefix) else ""
        if location.endswith("/"):
            continue
        if folder in LEFT and not location.startswith(attempt_prefix(manifest.key, manifest.attempt)):
            left[folder] += 1
        else:
            yield Finding(Kind.foreign, stage, f"{location} is in no manifest")
    for folder, count in left.items():
        yield Finding(Kind.left_over, stage, f"{count} objects below {prefix}{folder}/: {LEFT[folder]}")


def judge_digests(stage: str, manifest: Manifest, read: Mapping[str, str | None]) -> Iterator[Finding]:
    """Files whose content is not that of the manifest. `read` has digests by location; None if the file has gone."""
    for file in manifest.files:
        digest = read.get(file.location, file.sha256)
        if digest is None:
            yield Finding(Kind.missing, stage, f"{file.location} is missing")
        elif digest != file.sha256:
            yield Finding(Kind.changed, stage, f"{file.location}: expected sha256 {file.sha256}, found {digest}")


def verified_stage(stage: str, manifest: Manifest) -> VerifiedStage:
    """What a verification says of a stage that it has looked at."""
    run = f"{manifest.run.namespace}/{manifest.run.name}"
    return VerifiedStage(stage, manifest.key, len(manifest.files), sum(file.size for file in manifest.files), run)


def prefixes_of(manifest: Manifest) -> list[str]:
    """Where a stage's objects lie: its own prefix, and those of the models that it has copied."""
    copied = {
        model_prefix(output.digest)
        for output in manifest.outputs.values()
        if any(file.location.startswith(model_prefix(output.digest)) for file in output.files)
    }
    return [stage_prefix(manifest.key), *sorted(copied)]


Sources = Mapping[str, str]
"""Input name to where it comes from (`dpo-1/adapter`), if the run's spec is known."""


def judge_inputs(
    stage: str, manifest: Manifest, manifests: Mapping[str, Manifest], sources: Sources | None
) -> Iterator[Finding]:
    """Whether each input is the content that the run's results have now, and whether the key follows from all of it."""
    choices: dict[str, list[str]] = {}
    for name, digest in manifest.inputs.items():
        named = (sources or {}).get(name)
        found = [(id_, output) for id_, output in _outputs(manifests, digest) if named in (None, f"{id_}/{output}")]
        if not found:
            place = f"that of {named}" if named else "that of any result of this run"
            # Without a spec, a pointer may be of a run of the same name with other settings.
            kind = Kind.changed if named else Kind.note
            yield Finding(kind, stage, f"input {name}: its content is not {place}: sha256 {digest} was read")
        choices[name] = [digest if id_ == "prepare" else f"{manifests[id_].key}/{output}" for id_, output in found]
    if all(choices.values()):
        yield from _judge_key(stage, manifest, choices)


def _outputs(manifests: Mapping[str, Manifest], digest: str) -> list[tuple[str, str]]:
    """Stage and output of everything that has this content."""
    return [
        (stage, name)
        for stage, manifest in manifests.items()
        for name, output in manifest.outputs.items()
        if output.digest == digest
    ]


def _judge_key(stage: str, manifest: Manifest, choices: Mapping[str, list[str]]) -> Iterator[Finding]:
    if manifest.code.get("stage") != str(CODE_VERSIONS[manifest.kind]):
        yield Finding(Kind.note, stage, "its key is not recomputed: another version of the stage's code made it")
        return
    try:
        settings = SETTINGS[manifest.kind].model_validate(manifest.settings)
    except ValidationError:
        yield Finding(Kind.note, stage, "its key is not recomputed: another version wrote its settings")
        return
    combinations = islice(product(*choices.values()), TRIED)
    inputs = (dict(zip(choices, chosen, strict=True)) for chosen in combinations)
    if all(stage_key(manifest.kind, settings, manifest.seed, each) != manifest.key for each in inputs):
        yield Finding(Kind.changed, stage, "its key does not follow from the settings, seed and inputs in its manifest")
