"""The finished stages of one run, and its artifacts by name. Reads manifests; files are fetched on request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.manifest import Manifest, Output
from evolution_jobs.contract.names import artifacts, named
from evolution_jobs.store.base import Store, inside

from ..api.spec import EvolutionRunSpec
from ..api.status import RunStatus


@dataclass(frozen=True)
class Artifact:
    """An output of a finished stage, by its readable name."""

    name: str
    """`M2`, `pairs-1`, `answers-0`, `test`."""
    manifest: Manifest
    output: Output


@dataclass(frozen=True)
class Results:
    """What a run has left in its storage."""

    namespace: str
    name: str
    store: Store
    manifests: Mapping[str, Manifest]
    """Finished stages by id, in the order of the graph."""
    spec: EvolutionRunSpec | None = None
    """Unset if only the storage is known."""
    status: RunStatus | None = None
    """What the planner or the cluster says of the run; unset if only the storage is known."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """By stage id, why its manifest could not be read."""
    observed: bool = True
    """Whether the status is what was seen of the run. That of a run file follows from what has finished: it knows no failure."""

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """All artifacts of finished stages by name, in the order of the graph."""
        return {
            name: Artifact(name, manifest, manifest.outputs[output])
            for manifest in self.manifests.values()
            for name, output in artifacts(manifest)
        }

    @property
    def models(self) -> list[str]:
        """The models that are trained: M0, M1, ..."""
        return [name for name in self.artifacts if re.fullmatch(r"M\d+", name)]

    @property
    def champion(self) -> str | None:
        """The model that is chosen so far: `M1`. None also if only the storage is known."""
        chosen = self.status.champion if self.status else None
        return None if chosen is None else f"M{chosen}"

    def artifact(self, name: str) -> Artifact:
        """The artifact of this name. Raises PermanentError `ArtifactMissing`, which says what there is."""
        found = self.artifacts
        if name in found:
            return found[name]
        place = named(name)
        if place is None:
            words = f"{name!r} is no name of an artifact"
        elif place.stage in self.faults:
            words = f"{name}: {self.faults[place.stage]}"
        elif place.stage in self.manifests:
            words = f"stage {place.stage} made no {place.output}"
        elif self.spec is not None and _round(place.stage) > self.spec.iterations:
            words = f"{name} is not there: run {self.name} has {self.spec.iterations} rounds"
        elif self.status is not None and self.status.stages and place.stage not in self.status.stage_by_id():
            words = f"{name} is not there: run {self.name} has no stage {place.stage}"
        else:
            words = f"{name} is not there: stage {place.stage} of run {self.name} has not finished"
        there = f"there are {', '.join(found)}" if found else f"{self.store.uri} has no finished stage of it"
        raise PermanentError("ArtifactMissing", f"{words}; {there}")

    def fetch(self, output: Output, directory: Path) -> list[Path]:
        """Copy an output's files below `directory`, each checked by its digest. Returns their paths.

        Raises what the store raises.
        """
        paths = []
        for file in output.files:
            path = inside(directory, file.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.store.get_file(file.location, path, file.sha256)
            paths.append(path)
        return paths


def _round(stage: str) -> int:
    """The number in a stage's id; 0 if it has none."""
    _, _, number = stage.partition("-")
    return int(number or 0)
