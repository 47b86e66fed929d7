"""Data, dropped rows, lineage, cost and environment of a run, as the report's tables show them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from evolution_jobs.contract.manifest import Manifest
from evolution_jobs.contract.names import artifacts
from evolution_jobs.contract.rows import Reject
from evolution_jobs.preference.advice import ADVICE
from evolution_jobs.printable import printable

from .details import mapping, mappings, numbers, text, texts
from .facts import Facts
from .words import drops, listed

EXAMPLES = 3
"""Dropped rows that are shown for each round and reason."""


@dataclass(frozen=True)
class Drop:
    """Rows that a stage dropped for one reason."""

    stage: str
    round: int | None
    reason: str
    rows: int
    read: int | None
    """Rows that the stage read, if it counts them."""
    advice: str
    examples: Sequence[Reject]


def dropped(facts: Facts) -> list[Drop]:
    """Every reason for which a stage dropped rows. Only reflect keeps the rows."""
    found = []
    for stage, manifest in facts.manifests.items():
        rejects = facts.rejects.get(manifest.iteration or 0, ()) if manifest.kind == "reflect" else ()
        for reason, rows in drops(manifest.counts).items():
            examples = list(islice((each for each in rejects if each.reason == reason), EXAMPLES))
            read = manifest.counts.get("read")
            found.append(Drop(stage, manifest.iteration, reason, rows, read, ADVICE.get(reason, ""), examples))
    return found


@dataclass(frozen=True)
class Source:
    """A data source that prepare read."""

    role: str
    uri: str
    sha256: str
    counts: Mapping[str, int]


def sources(facts: Facts) -> list[Source]:
    """The data sources, in prepare's order."""
    prepare = facts.manifests.get("prepare")
    return [
        Source(
            text(each.get("role")),
            text(each.get("uri")),
            text(each.get("sha256")) or text(each.get("commit")),
            numbers(mapping(each.get("counts"))),
        )
        for each in (mappings(prepare.details.get("sources")) if prepare else [])
    ]


def leak_check(prepare: Manifest) -> list[str]:
    """What prepare has checked, and where the contexts come from, one sentence each."""
    details = prepare.details
    found = [
        "No held-out conversation is in the training data, word for word or nearly (40 % of its word 4-grams): prepare "
        "compares them, and fails if it finds one. It would not find a paraphrase."
    ]
    if place := text(details.get("testFrom")):
        found.append(f"Held-out contexts come from {place}.")
    if place := text(details.get("contextsFrom")):
        found.append(f"The contexts that are answered in each round come from {place}.")
    if sets := texts(details.get("neverTrainedOn")):
        found.append(f"The run never trains on {listed(sets)}.")
    if bad := texts(details.get("badRows")):
        found.append(f"Bad rows were skipped, such as {printable(bad[0])}.")
    return found


@dataclass(frozen=True)
class Link:
    """An input or output in the lineage."""

    name: str
    digest: str
    stage: str | None
    """The stage that made it, if its manifest is here."""


@dataclass(frozen=True)
class Step:
    """A stage in the lineage: what it read and what it made, by digest."""

    stage: str
    inputs: Sequence[Link]
    outputs: Sequence[Link]


def chain(facts: Facts) -> list[Link]:
    """How the last model came from the data: the training data, then adapters and pairs by their artifacts' names."""
    wanted = {"prepare": "train", "sft": "adapter", "reflect": "pairs", "dpo": "adapter"}
    return [
        Link("data" if output == "train" else name, manifest.outputs[output].digest, stage)
        for stage, manifest in facts.manifests.items()
        for name, output in artifacts(manifest)
        if output == wanted.get(manifest.kind)
    ]


CHAIN = ("prepare", "sft", "generate", "reflect", "dpo")
"""Kinds of stage on the way from the data to the last model."""


def lineage(facts: Facts) -> list[Step]:
    """The stages between the data and the last model, in order. Evaluations only look at it."""
    makers: dict[str, str] = {}
    for stage, manifest in facts.manifests.items():
        for digest in manifest.contents.values():
            makers.setdefault(digest, stage)
    return [
        Step(
            stage,
            [Link(name, digest, makers.get(digest)) for name, digest in manifest.inputs.items()],
            [Link(name, digest, stage) for name, digest in manifest.contents.items()],
        )
        for stage, manifest in facts.manifests.items()
        if manifest.kind in CHAIN
    ]


@dataclass(frozen=True)
class Cost:
    """What a stage took."""

    stage: str
    seconds: float
    """Of the process that published."""
    phases: Mapping[str, float]
    tokens: int
    gpu_hours: float
    joules: float | None
    """Energy of the GPUs of the process that published; None if it is not known."""
    reused: bool
    """Whether another run computed it."""
    ahead: int
    """Rows that generate had made while its model was loaded, so that their time is counted there."""
    price: float | None
    """What endpoints asked for it, at the prices in the run file."""

    @property
    def rate(self) -> float | None:
        """Tokens a second; None if its tokens were not all made in its own time."""
        return None if self.ahead or not self.tokens or not self.seconds else self.tokens / self.seconds


def costs(facts: Facts) -> list[Cost]:
    """What each finished stage took."""
    return [_cost(facts, stage, manifest) for stage, manifest in facts.manifests.items()]


def _cost(facts: Facts, stage: str, manifest: Manifest) -> Cost:
    status = facts.stages.get(stage)
    gpu_seconds = status.gpu_seconds if status and status.gpu_seconds else manifest.gpus * manifest.seconds
    asked = [mapping(each).get("cost") for each in manifest.details.values()]
    prices = [cost for cost in asked if isinstance(cost, int | float)]
    return Cost(
        stage,
        manifest.seconds,
        manifest.phases,
        manifest.tokens,
        gpu_seconds / 3600,
        manifest.gpu_joules,
        (manifest.run.namespace, manifest.run.name) != (facts.namespace, facts.name),
        manifest.counts.get("ahead", 0),
        sum(prices) if prices else None,
    )


@dataclass(frozen=True)
class Total:
    """What all stages took together."""

    seconds: float
    tokens: int
    gpu_hours: float
    joules: float | None
    """Of the stages whose energy is known; None if there are none."""
    metered: int
    """Stages whose energy is known."""
    on_gpus: int
    """Stages that had a GPU."""
    price: float | None


def total(parts: Sequence[Cost]) -> Total:
    """The sum over stages."""
    prices = [each.price for each in parts if each.price is not None]
    energies = [each.joules for each in parts if each.joules is not None]
    return Total(
        sum(each.seconds for each in parts),
        sum(each.tokens for each in parts),
        sum(each.gpu_hours for each in parts),
        sum(energies) if energies else None,
        len(energies),
        sum(each.gpu_hours > 0 for each in parts),
        sum(prices) if prices else None,
    )


def environment(facts: Facts) -> list[tuple[str, str]]:
    """Name and version of what computed the stages. If stages differ, each version has the stages that it made."""
    found: dict[str, dict[str, list[str]]] = {}
    for stage, manifest in facts.manifests.items():
        for name, version in _versions(manifest):
            found.setdefault(name, {}).setdefault(version, []).append(stage)
    return [
        (name, next(iter(versions)) if len(versions) == 1 else "; ".join(_made(versions)))
        for name, versions in found.items()
    ]


def _versions(manifest: Manifest) -> Iterator[tuple[str, str]]:
    # Each kind of stage counts the versions of its own code, so they are no common version.
    yield from ((name, str(version)) for name, version in manifest.code.items() if name != "stage")


def _made(versions: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield from (f"{version} ({', '.join(stages)})" for version, stages in versions.items())
