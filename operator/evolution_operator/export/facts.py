"""What a model card says of a model, gathered from the run's results. Reads metrics.json; all else is in the manifests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from evolution_jobs.contract.errors import StageError
from evolution_jobs.contract.figures import Figure, figures_of, kind_of
from evolution_jobs.contract.manifest import Manifest
from evolution_jobs.contract.settings import PreferenceSourceName, SamplingSettings
from pydantic import ValidationError

from ..reporting.scores import StoredScores
from ..results.choice import chat_settings, of_kind
from ..results.results import Results
from ..results.weights import Base, Weights, base_of
from .licences import UNKNOWN, of_data
from .public import public, shown_uri

TEACHER = "teacher"
TUNED_ON = ("seed", "replay")
"""Roles of data that reach the weights of M0."""
TRAINED_ON = (*TUNED_ON, "contexts", TEACHER)
"""Those that reach the weights of every later model. `test` reaches none."""
ROLES = {"seed": "seedData", "replay": "replay", "contexts": "contexts", "test": "test"}
"""Roles of data sets, and the settings of prepare that name them."""


@dataclass(frozen=True)
class DataSource:
    """A data set that the run read."""

    role: str
    """seed, replay, contexts, teacher or test."""
    uri: str
    """Without what is private to the user: of a file or a bucket, the last part of its path; of a teacher, its model's name."""
    layout: str
    licence: str
    pin: str
    """Commit or sha256; empty if neither is known."""
    kept: int | None

    @property
    def hub(self) -> str | None:
        """Name of a data set of the hub."""
        return self.uri.removeprefix("hf://") if self.uri.startswith("hf://") else None


@dataclass(frozen=True)
class Step:
    """A finished stage on the way to the model, or its evaluation."""

    stage: str
    key: str
    digest: str
    """Of its main output."""


@dataclass(frozen=True)
class Facts:
    """Everything that the card, the folder and the manifests say of a model."""

    run: str
    model: str
    """M2."""
    iteration: int
    base: Base
    base_name: str | None
    """Name of the base model on the hub; None if it is not there."""
    base_revision: str | None
    base_licence: str
    quantization: str | None
    data: Sequence[DataSource]
    settings: Mapping[str, Mapping[str, Any]]
    """Settings of sft, the last dpo and the last reflect, under their wire names, without what is private."""
    sampling: SamplingSettings
    steps: Sequence[Step]
    figures: Mapping[str, Sequence[Figure]]
    """By model (M0 and this one): the figures of all test rows."""
    safety: bool
    """Whether the crisis test set was asked."""
    judge: bool
    rows: int
    """Test contexts that the figures are of; 0 if nothing is evaluated."""
    pairs: Mapping[int, int]
    """Preference pairs that each round trained on."""
    code: Mapping[str, str]
    sources: Sequence[str] = ()
    """Preference sources of the rounds up to this model, without `mixed`."""
    unread: Sequence[str] = ()
    """Evaluations whose file is in no layout that this version knows: `metrics-2`."""

    @property
    def trained_on(self) -> list[DataSource]:
        """The data that reached the weights."""
        roles = TRAINED_ON if self.iteration else TUNED_ON
        return [source for source in self.data if source.role in roles]


def facts_of(
    weights: Weights,
    model: str,
    *,
    base_name: str | None,
    base_revision: str | None,
    base_licence: str,
    stated: Mapping[str, str],
    quantization: str | None,
) -> Facts:
    """Gather the facts of a model. `stated` are licences that the user states, by data source.

    Raises PermanentError `ArtifactMissing`, and what the store raises.
    """
    results = weights.results
    made = results.artifact(model).manifest
    iteration = made.iteration or 0
    unread: list[str] = []
    figures = {name: found for name in dict.fromkeys(("M0", model)) if (found := _figures(weights, name, unread))}
    own = figures.get(model, [])
    reflects = {each.iteration or 0: each for each in of_kind(results, "reflect")}
    rounds = [reflects[number].settings for number in range(1, iteration + 1) if number in reflects]
    return Facts(
        run=results.name,
        model=model,
        iteration=iteration,
        base=base_of(results),
        base_name=base_name,
        base_revision=base_revision,
        base_licence=base_licence,
        quantization=quantization,
        data=[*data_sources(results.manifests["prepare"], stated), *_teachers(rounds, stated)],
        settings=public(_settings(results, made)),
        sampling=chat_settings(results).sampling,
        steps=_steps(results, iteration),
        figures=figures,
        safety=any(figure.name.startswith("safety_") for figure in own),
        judge=any(figure.name.startswith("judge_") for figure in own),
        rows=max((figure.rows for figure in own), default=0),
        pairs={
            round_: reflects[round_].counts.get("pairs", 0) for round_ in range(1, iteration + 1) if round_ in reflects
        },
        code=made.code,
        unread=unread,
        sources=list(dict.fromkeys(source for each in rounds for source in _sources(each))),
    )


def data_sources(prepare: Manifest, stated: Mapping[str, str]) -> list[DataSource]:
    """The data that prepare read, with licences; `stated` are those that the user states, by address or its last part."""
    read: dict[tuple[str, str], Mapping[str, Any]] = {
        (source["role"], source["uri"]): source for source in prepare.details.get("sources", [])
    }
    found = []
    for role, field in ROLES.items():
        for source in prepare.settings.get(field) or []:
            uri, layout = source["uri"], source["format"]
            seen = read.get((role, uri), {})
            shown = shown_uri(uri)
            found.append(
                DataSource(
                    role=role,
                    uri=shown,
                    layout=layout,
                    licence=of_data(uri, layout, stated.get(uri) or stated.get(shown)),
                    pin=str(seen.get("revision") or seen.get("commit") or seen.get("sha256") or ""),
                    kept=seen.get("counts", {}).get("kept"),
                )
            )
    return found


def data_names(results: Results) -> list[str]:
    """Names under which a user may state a licence: of each data source and teacher as the card calls it."""
    settings = results.manifests["prepare"].settings
    uris = [source["uri"] for field in ROLES.values() for source in settings.get(field) or []]
    teachers = _teachers([each.settings for each in of_kind(results, "reflect")], {})
    return list(dict.fromkeys([*map(shown_uri, uris), *(each.uri for each in teachers)]))


def _sources(reflect: Mapping[str, Any]) -> list[str]:
    """Preference sources of a round, from the settings of its reflect."""
    source = str(reflect.get("source", "self"))
    return (
        [name for name in get_args(PreferenceSourceName) if name in (reflect.get("weights") or {})]
        if (source == "mixed")
        else [source]
    )


def _teachers(rounds: Sequence[Mapping[str, Any]], stated: Mapping[str, str]) -> list[DataSource]:
    """The teachers of some rounds. Whether their answers may be trained on, only the user can say."""
    asked = [each.get("teacher") for each in rounds if TEACHER in _sources(each)]
    names = dict.fromkeys(str(each.get("model")) for each in asked if isinstance(each, Mapping))
    return [DataSource(TEACHER, name, "", stated.get(name, UNKNOWN), "", None) for name in names]


def _settings(results: Results, made: Manifest) -> dict[str, Mapping[str, Any]]:
    sft = [manifest.settings for manifest in of_kind(results, "sft")][:1]
    found: dict[str, Mapping[str, Any]] = {"sft": sft[0]} if sft else {}
    if made.kind == "dpo":
        found["dpo"] = made.settings
        found |= {each.kind: each.settings for each in of_kind(results, "reflect") if each.iteration == made.iteration}
    return found


def _steps(results: Results, iteration: int) -> list[Step]:
    return [
        Step(manifest.stage, manifest.key, manifest.main_digest or "")
        for manifest in results.manifests.values()
        if manifest.kind != "prewarm" and (manifest.iteration or 0) <= iteration
    ]


def _figures(weights: Weights, model: str, unread: list[str]) -> list[Figure]:
    """The figures of all test rows: those in metrics.json, and those of dpo and judge in their manifests."""
    number = model.removeprefix("M")
    name = f"metrics-{number}"
    try:
        scores = StoredScores.stored(weights.file(name).read_bytes())
    except StageError:  # not evaluated, or not yet
        return []
    except (ValidationError, IndexError):  # IndexError: an output without a file
        unread.append(name)
        return []
    found = [each for each in scores.figures if each.set is None]
    for stage in (f"dpo-{number}", f"judge-{number}"):
        if manifest := weights.results.manifests.get(stage):
            found += _of_manifest(manifest)
    return found


def _of_manifest(manifest: Manifest) -> list[Figure]:
    return [
        Figure(
            name=name,
            value=value,
            interval=manifest.intervals.get(name),
            unit=kind.unit,
            better=kind.better,
            rows=0,
            row_set="",
            method=f"see {manifest.stage}",
        )
        for name, value in figures_of(manifest.kind, manifest.metrics).items()
        if (kind := kind_of(name))
    ]
