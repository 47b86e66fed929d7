"""What a tracker gets of a run: numbers, settings and digests, and no text of a dialogue. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.figures import figures_of
from evolution_jobs.contract.manifest import Manifest, canonical_digest
from evolution_jobs.redaction import redacted

from ..api.spec import EvolutionRunSpec
from ..api.status import RunStatus
from ..results.curves import curves
from ..results.figures import FigureRow
from ..results.results import Results

SAME = ("sft", "dpo-1", "evaluate-0")
"""Stages whose keys make two runs the same experiment. Each later key follows from these and from what changes no result."""
SETTINGS = (
    *("iterations", "seed", "base_model", "data", "preference_source", "preference_weights", "teacher", "reward"),
    *("sft", "generation", "reflection", "dpo", "evaluation", "judge", "stopping"),
)
"""Fields of the spec that decide results. Storage, Pods and retries are left out."""
LEFT_OUT = re.compile(r"(^|\.)(pod(\.|$)|\w*[sS]ecret$)")


@dataclass(frozen=True)
class Point:
    """A number that is logged."""

    metric: str
    """`dpo-1/loss`, `figures/distinct2`."""
    step: int
    """Optimiser step of a curve; for all others the round."""
    value: float


@dataclass(frozen=True)
class TrackedStage:
    """The points of one finished stage, which are logged together."""

    id: str
    key: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Record:
    """A run as a tracker sees it."""

    id: str
    """16 hex digits. A run that is continued keeps it; one whose settings or data have changed gets another."""
    name: str
    group: str
    """Namespace and name: runs that differ in settings have it in common."""
    phase: str
    params: Mapping[str, str]
    """Settings by path: `dpo.beta`."""
    tags: Mapping[str, str]
    """Champion, storage, and the digest of each artifact."""
    stages: Sequence[TrackedStage]

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.phase in ("Complete", "Failed")


def record_of(results: Results, rows: Iterable[FigureRow]) -> Record | None:
    """The record of a run; None until prepare has finished, because its keys are not known before. `rows` are its figures.

    Raises PermanentError `TrackerInput` if only the run's storage is known.
    """
    status = results.status
    if status is None:
        raise PermanentError(
            "TrackerInput", f"only the storage of {results.name} is known: name the run file, or the run on the cluster"
        )
    keys = {stage.id: stage.key for stage in status.stages if stage.key}
    if "sft" not in keys:
        return None
    by_stage: dict[str, list[FigureRow]] = {}
    for row in rows:
        by_stage.setdefault(row.stage, []).append(row)
    group = f"{results.namespace}/{results.name}"
    return Record(
        id=canonical_digest([group, *(keys.get(stage) for stage in SAME)])[:16],
        name=results.name,
        group=group,
        phase=status.phase,
        params=params_of(results.spec) if results.spec else {},
        tags=dict(_tags(results, status)),
        stages=[
            TrackedStage(id_, manifest.key, [*_points(manifest, by_stage.get(id_, ()))])
            for id_, manifest in results.manifests.items()
        ],
    )


def params_of(spec: EvolutionRunSpec) -> dict[str, str]:
    """The settings that decide results, flat: `dpo.lora.rank` to `16`. A list of mappings is JSON."""
    wanted = {type(spec).model_fields[name].alias or name for name in SETTINGS}
    document = {name: value for name, value in spec.wire().items() if name in wanted}
    return {path: redacted(text) for path, text in _flat(document, "") if not LEFT_OUT.search(path)}


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else name)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _points(manifest: Manifest, rows: Iterable[FigureRow]) -> Iterator[Point]:
    number = manifest.iteration or 0
    for point in curves([manifest]):
        yield Point(f"{manifest.stage}/{point.measure}", point.step, point.value)
    for row in rows:
        place = "" if row.set is None else f" of {_plain(row.set)}"
        yield Point(f"figures{place}/{row.figure}", row.iteration, row.value)
        for end, value in (("low", row.low), ("high", row.high)):
            if value is not None:
                yield Point(f"intervals{place}/{row.figure}_{end}", row.iteration, value)
    figures = figures_of(manifest.kind, manifest.metrics)
    for name, metric in manifest.metrics.items():
        if name not in figures:
            yield Point(f"{manifest.kind}/{name}", number, metric)
    if manifest.kind in ("prepare", "reflect"):
        for name, count in manifest.counts.items():
            yield Point(f"{manifest.kind} counts/{_plain(name)}", number, count)
    yield Point(f"seconds/{manifest.kind}", number, manifest.seconds)
    if manifest.tokens:
        yield Point(f"tokens/{manifest.kind}", number, manifest.tokens)


def _tags(results: Results, status: RunStatus) -> Iterator[tuple[str, str]]:
    yield "run", f"{results.namespace}/{results.name}"
    yield "storage", redacted(results.store.uri)
    if results.champion is not None:
        yield "champion", results.champion
    for name, artifact in results.artifacts.items():
        yield f"artifact.{name}", f"{artifact.manifest.stage}@{artifact.manifest.key} sha256:{artifact.output.digest}"


def _plain(name: str) -> str:
    """A name of only those characters that every tracker takes."""
    return re.sub(r"[^A-Za-z0-9_. -]", "_", name)
