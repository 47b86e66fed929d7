"""Which model of a run is meant, and how its answers are sampled. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.manifest import Manifest
from evolution_jobs.contract.settings import EvaluationSettings, GenerationSettings, SamplingSettings

from .results import Results

BASE = "base"
"""Name of the base model, which has no adapter."""
CHAMPION = "champion"
"""Stands for the model that the run has chosen."""


class Chosen(NamedTuple):
    """A model and why it was taken; empty if the user named it."""

    name: str
    why: str = ""


def require_champion(results: Results) -> str:
    """The model that the run has chosen. Raises PermanentError `ArtifactMissing`."""
    if results.status is None:
        raise PermanentError(
            "ArtifactMissing", f"{CHAMPION}: the storage alone does not say which it is; name the run file"
        )
    if results.champion is None:
        raise PermanentError("ArtifactMissing", f"{CHAMPION}: run {results.name} has chosen none yet")
    return results.champion


def choose_model(results: Results, wanted: str | None, option: str = "--model", *, base: bool = True) -> Chosen:
    """The model that the user names by `option`, else the champion, else the newest one.

    `base` tells whether the caller takes the base model. Raises PermanentError `ArtifactMissing` if the run has no such
    model, or none at all.
    """
    models, champion = results.models, results.champion
    if wanted == BASE and base:
        return Chosen(BASE)
    if wanted == CHAMPION:
        return Chosen(require_champion(results), "the champion")
    if wanted is not None:
        if wanted not in models:
            there = ", ".join([*models, *([BASE] if base else [])])
            raise PermanentError("ArtifactMissing", f"{option} {wanted}: run {results.name} has {there}, not {wanted}")
        return Chosen(wanted)
    if not models:
        known = f"; {option} {BASE} takes the base model" if base and "prepare" in results.manifests else ""
        raise PermanentError(
            "ArtifactMissing", f"run {results.name} has no model yet: stage sft has not finished{known}"
        )
    if champion in models:
        return Chosen(champion, "the champion")
    return Chosen(max(models, key=lambda name: int(name[1:])), "the newest")


class Settings(NamedTuple):
    """How answers are sampled, and where that comes from."""

    sampling: SamplingSettings
    seed: int
    source: str


def chat_settings(results: Results) -> Settings:
    """The settings with which the run's models answer: those of generate, else of evaluate, as its stages had them."""
    for kind, settings in (("generate", GenerationSettings), ("evaluate", EvaluationSettings)):
        if found := of_kind(results, kind):
            return Settings(settings.stored(found[0].settings), found[0].seed, found[0].stage)
    if results.spec is not None:
        return Settings(results.spec.generation, results.spec.seed, "spec.generation")
    return Settings(GenerationSettings(), 0, "the defaults: no stage that samples has finished")


def evaluation_settings(results: Results, model: str) -> Settings | None:
    """The settings with which evaluate asked this model, else any model of the run; None if nothing is evaluated."""
    found = of_kind(results, "evaluate")
    own = [each for each in found if f"M{each.iteration}" == model] or found
    if not own:
        return None
    return Settings(EvaluationSettings.stored(own[0].settings), own[0].seed, own[0].stage)


def changed(
    sampling: SamplingSettings,
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    max_new_tokens: int | None = None,
    greedy: bool = False,
) -> SamplingSettings:
    """The settings with what the command line changes."""
    wanted = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
    given = {name: value for name, value in wanted.items() if value is not None}
    return sampling.model_copy(update=given | ({"temperature": 0.0} if greedy else {}))


def of_kind(results: Results, kind: str) -> Sequence[Manifest]:
    """The finished stages of a kind, in the order of the graph."""
    return [manifest for manifest in results.manifests.values() if manifest.kind == kind]
