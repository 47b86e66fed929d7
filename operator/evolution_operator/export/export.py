"""Exports a model of a run: gathers what is needed, writes the folder, says what the user should know."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evolution_jobs.contract.errors import PermanentError

from ..results.results import Results
from ..results.weights import Weights, base_of
from ..verify.findings import PROVENANCE
from ..verify.provenance import UNSIGNED
from ..verify.walk import provenance_of
from .card import licence_of
from .facts import Facts, data_names, data_sources, facts_of
from .folder import (
    RECIPE,
    is_export,
    licence_of_card,
    write_adapter,
    write_card,
    write_generation_config,
    write_tokenizer,
    written,
)
from .hub import licence_on_hub, tokenizer_files
from .licences import UNKNOWN
from .manifests import manifests
from .public import public, shown_uri
from .recipes import gguf_recipe
from .serving import Serving

ROUNDING_WORTH_TELLING = 0.1
"""Rounding errors of a merge in proportion to the update, from which on the user is told."""


@dataclass(frozen=True)
class Wanted:
    """What the user asks for."""

    model: str
    directory: Path
    merge: bool = False
    dtype: str | None = None
    force: bool = False
    base_model: str | None = None
    """`owner/name` or `owner/name@revision`: where the same base model is on the hub."""
    base_licence: str | None = None
    data_licences: Mapping[str, str] = field(default_factory=dict)
    serve: Sequence[str] = ()
    """`vllm`, `kserve`."""
    serving: Callable[[Facts], Serving] | None = None
    """How it is served; needed with `serve`. Asked only if something is exported."""


@dataclass(frozen=True)
class Exported:
    """What was written, and what the user should know."""

    directory: Path
    files: Mapping[str, int]
    """Bytes by path."""
    licence: str
    notes: Sequence[str]


def export(weights: Weights, wanted: Wanted) -> Exported:
    """Write the folder. Raises PermanentError (`ExportInput`, `ArtifactMissing`), and what loading and the store raise."""
    facts = _facts(weights, wanted)
    notes = list(_notes(facts, wanted))
    # What cannot be served is told before a large model is merged.
    served = manifests(wanted.serving(facts), wanted.serve) if wanted.serving is not None else {}

    def fill(directory: Path) -> None:
        reference, _ = weights.base()
        adapter, rounding = weights.adapter(wanted.model), None
        write_tokenizer(_tokenizer(weights, reference), directory)
        from .merge import generation_config, merge

        tokens = generation_config(reference)
        if wanted.merge:
            merged = merge(reference, adapter, directory, wanted.dtype)
            if merged.lost > ROUNDING_WORTH_TELLING:
                rounding = (
                    f"Rounding the merged weights to {merged.dtype} has changed them by {100 * merged.lost:.0f} % of the "
                    "adapter's own change. The adapter, or a merge in float32, has no such error."
                )
                notes.append(rounding)
        else:
            write_adapter(adapter, directory, facts)
        write_generation_config(tokens, directory, facts)
        write_card(directory, facts, merged=wanted.merge, rounding=rounding)
        _write_provenance(directory, weights.results, wanted.model)
        _write_serving(directory, facts, served, merged=wanted.merge)

    stages = weights.results.store.local("stages")
    written(wanted.directory, fill, force=wanted.force, storage=stages.parent if stages else None)
    return Exported(wanted.directory, _sizes(wanted.directory), licence_of(facts).words, notes)


def exported(results: Results, wanted: Wanted) -> Exported | None:
    """What an earlier export of the same model has left in the directory, with what the user has changed since.

    Raises PermanentError `ExportInput` if its model card has no readable front matter.
    """
    _known(results, wanted.data_licences)
    directory = wanted.directory
    whole = not (directory / "adapter_config.json").exists()
    if not is_export(directory) or whole != wanted.merge:
        return None
    unsigned, _ = provenance_of(results, results.artifact(wanted.model).manifest)
    if (directory / UNSIGNED).read_bytes() != _public(unsigned):
        return None
    note = f"{directory} is there and stays as it is, its README.md with your changes; --force writes it anew."
    return Exported(directory, _sizes(directory), licence_of_card(directory), [note])


def _sizes(directory: Path) -> dict[str, int]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.stat().st_size for path in paths}


def _facts(weights: Weights, wanted: Wanted) -> Facts:
    base = base_of(weights.results)
    _, quantization = weights.base()
    name, revision = base.hub or (None, None)
    if wanted.base_model:
        given, _, at = wanted.base_model.partition("@")
        if base.hub and given != name:
            raise PermanentError("ExportInput", f"--base-model {given}: the run's base model is {name} on the hub")
        name, revision = given, at or revision
    stated = _known(weights.results, wanted.data_licences)
    for source in data_sources(weights.results.manifests["prepare"], stated):
        if source.hub and source.licence == UNKNOWN:
            stated[source.uri] = licence_on_hub("dataset", source.hub, source.pin or None)
    licence = wanted.base_licence or (licence_on_hub("model", name, revision) if name else UNKNOWN)
    return facts_of(
        weights,
        wanted.model,
        base_name=name,
        base_revision=revision,
        base_licence=licence,
        stated=stated,
        quantization=quantization,
    )


def _known(results: Results, stated: Mapping[str, str]) -> dict[str, str]:
    """Licences of data under the names that the card has. One of data that the run has not read is a slip, and would be lost."""
    named, found = data_names(results), {}
    for source, licence in stated.items():
        name = source if source in named else shown_uri(source)
        if name not in named:
            words = f"the run read no such data; it read {', '.join(named)}"
            raise PermanentError("ExportInput", f"--licence {source}={licence}: {words}")
        found[name] = licence
    return found


def _notes(facts: Facts, wanted: Wanted) -> Sequence[str]:
    notes = []
    if facts.base_licence == UNKNOWN:
        notes.append("The base model's licence is not known: state it with --base-licence.")
    for source in facts.data:
        if source.licence == UNKNOWN:
            notes.append(f"The licence of {source.uri} is not known: state it with --licence {source.uri}=LICENCE.")
    notes += [
        f"{name} is in no layout that this version reads: the card is without its figures." for name in facts.unread
    ]
    if facts.base_name is None and not wanted.merge:
        notes.append(
            f"The base model ({facts.base.uri}) is not on the hub, so nobody else can load this adapter: use --merge, or "
            "--base-model OWNER/NAME if the same weights are there."
        )
    return notes


def _tokenizer(weights: Weights, reference: Path | str) -> Path:
    """The directory with the base model's tokenizer."""
    from evolution_jobs.models.load import locate

    hub = base_of(weights.results).hub
    return tokenizer_files(*hub) if hub else locate(reference).directory or Path(str(reference))


def _write_provenance(directory: Path, results: Results, model: str) -> None:
    """Write where the adapter comes from, without private addresses, and the signed form if there is one."""
    unsigned, signed = provenance_of(results, results.artifact(model).manifest)
    (directory / UNSIGNED).write_bytes(_public(unsigned))
    if signed is not None:
        (directory / PROVENANCE).write_bytes(signed)


def _public(unsigned: bytes) -> bytes:
    return json.dumps(public(json.loads(unsigned)), ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"


def _write_serving(directory: Path, facts: Facts, served: Mapping[str, str], *, merged: bool) -> None:
    serve = (directory / RECIPE).parent
    serve.mkdir()
    (directory / RECIPE).write_text(gguf_recipe(facts, merged=merged), "utf-8")
    for name, text in served.items():
        (serve / name).write_text(text, "utf-8")
