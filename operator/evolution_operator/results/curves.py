"""Curves of a run's trainings, from their manifests: losses and reward margins by step. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from evolution_jobs.contract.manifest import Manifest

MEASURES: Mapping[str, Mapping[str, str]] = {
    "sft": {"curve": "loss", "validation": "validation_loss"},
    "dpo": {"curve": "loss", "margins": "reward_margin"},
}
"""By kind of stage: what its manifest's details call a curve, and what it is called here. Losses are in nats a token."""


@dataclass(frozen=True)
class CurvePoint:
    """A value that a training has measured at a step."""

    stage: str
    """`dpo-1`."""
    model: str
    """The model that is trained: `M1`."""
    measure: str
    """`loss`, `validation_loss` or `reward_margin`."""
    step: int
    """Optimiser step, from 1."""
    value: float


COLUMNS = tuple(field.name for field in fields(CurvePoint))


def curves(manifests: Iterable[Manifest]) -> list[CurvePoint]:
    """Every curve of every training, in the order of the manifests. A long curve was thinned by its stage."""
    return [point for manifest in manifests for point in _points(manifest)]


def _points(manifest: Manifest) -> Iterator[CurvePoint]:
    for name, measure in MEASURES.get(manifest.kind, {}).items():
        for step, value in points_of(manifest.details.get(name)):
            yield CurvePoint(manifest.stage, f"M{manifest.iteration or 0}", measure, step, value)


def points_of(curve: Any) -> Iterator[tuple[int, float]]:
    """Steps and values; nothing of what another version may have written in another form."""
    for point in curve if isinstance(curve, list) else ():
        match point:
            case [int(step), int(value) | float(value)]:
                yield step, float(value)
