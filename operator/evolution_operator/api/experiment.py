"""An experiment: one file with a base spec and variants, each of which becomes an `EvolutionRun`. Pure, but for `load_experiment`.

apiVersion: evolution.run/v1alpha1
kind: Experiment
metadata: {name: ablation}
spec:
  base: {...}                                            the spec of an EvolutionRun
  variants:
    - {name: self}                                       the base as it is
    - {name: none, set: {preferenceSource: none}}        a JSON merge patch of the base (RFC 7386)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from evolution_jobs.contract.document import Document
from pydantic import Field

from .run_file import Fault, Written, at, read_document
from .spec import API_VERSION, GROUP, KIND, EvolutionRun, Metadata
from .validation import EXPERIMENT, load_run, read_as, read_valid, validated

EXPERIMENT_LABEL = f"{GROUP}/experiment"
"""Label of an arm's EvolutionRun: the experiment's name."""
VARIANT_LABEL = f"{GROUP}/variant"
"""Label of an arm's EvolutionRun: the variant's name."""
NAME_LIMIT = 40
"""Characters of a run's name, as `Metadata` has it."""


class Variant(Document):
    """One arm of an experiment: what it changes of the base."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=NAME_LIMIT)]
    """The arm's name. Its run is named after it and the experiment, with `-` for a dot."""
    changes: Annotated[dict[str, Any], Field(alias="set")] = {}
    """Merged onto the base; null removes a field and a list is replaced as a whole. Without it, the arm is the base."""


class ExperimentSpec(Document):
    """A base spec and the variants of it that run."""

    base: dict[str, Any]
    """The spec of an EvolutionRun. It need not be complete, if every variant completes it."""
    variants: Annotated[list[Variant], Field(min_length=1)]
    """The arms in the order in which they run. The others are compared with the first one."""


class ExperimentFile(Document):
    """An experiment as a user writes it. There is no such resource on a cluster."""

    api_version: Literal["evolution.run/v1alpha1"]
    kind: Literal["Experiment"]
    metadata: Metadata
    spec: ExperimentSpec


@dataclass(frozen=True)
class Arm:
    """One variant, and the run that it stands for."""

    variant: str
    document: Mapping[str, Any]
    """The EvolutionRun as a run file has it."""
    run: EvolutionRun


@dataclass(frozen=True)
class Experiment:
    """All arms of an experiment, each a valid run."""

    namespace: str
    name: str
    arms: tuple[Arm, ...]


def load_experiment(path: Path) -> Experiment:
    """The experiment in a file.

    Raises RunFileError if the file cannot be read or is no valid experiment.
    """
    return read_valid(path, expand)


def load_runs(path: Path) -> EvolutionRun | Experiment:
    """What a file holds: a run, or an experiment. Raises RunFileError."""
    return load_experiment(path) if is_experiment(path) else load_run(path)


def is_experiment(path: Path) -> bool:
    """Whether a file holds an experiment, valid or not."""
    document = read_document(path)[0]
    return isinstance(document, dict) and document.get("kind") == EXPERIMENT


def expand(document: object, written: Written | None = None) -> tuple[Experiment | None, list[Fault]]:
    """The experiment as parsed from YAML, or None and everything that is wrong with it.

    A fault of an arm has the path at which the user wrote the field: below `spec.base`, or below the variant's `set`.
    """
    written = written or {}
    if isinstance(document, dict) and document.get("kind") == KIND:
        return None, [Fault("kind", f"is {KIND}, which is one run: use `evolution run -f FILE`")]
    file, found = read_as(ExperimentFile, document, written)
    if file is None or not isinstance(document, dict):
        return None, found
    found = list(_name_faults(file))
    base = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "base"}, "spec": file.spec.base}
    base_run, base_faults = validated(base, _written_of(written, "spec.base"))
    arms = []
    for index, variant in enumerate(file.spec.variants):
        arm = _arm_document(document["metadata"], file, variant)
        run, arm_faults = validated(arm, _written_of(written, "spec.base", f"spec.variants[{index}].set"))
        if run is not None:
            arms.append(Arm(variant.name, arm, run))
        # A name that a run cannot have was reported with the variant's own name.
        inner = [fault for fault in arm_faults if _within(fault.path, "spec")]
        found += _placed(inner, set(base_faults), file.spec, index)
    if not found:
        found = list(_arm_faults(file.spec.variants, [arm.run for arm in arms], base_run))
    # A fault of the base is one of every arm.
    found = list(dict.fromkeys(found))
    if found:
        return None, found
    return Experiment(file.metadata.namespace, file.metadata.name, tuple(arms)), []


def merged(target: Any, patch: Any) -> Any:
    """The target with a JSON merge patch applied (RFC 7386): null removes, and all but mappings is replaced as a whole."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def run_name(experiment: str, variant: str) -> str:
    """The name of a variant's run. A run's name has no dots."""
    return f"{experiment}-{variant}".replace(".", "-")


def _arm_document(metadata: Mapping[str, Any], file: ExperimentFile, variant: Variant) -> dict[str, Any]:
    """The variant's EvolutionRun. It keeps the experiment's namespace, labels and annotations."""
    labels = metadata.get("labels")
    ours = {EXPERIMENT_LABEL: file.metadata.name, VARIANT_LABEL: variant.name}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            **metadata,
            "name": run_name(file.metadata.name, variant.name),
            "labels": {**(labels if isinstance(labels, dict) else {}), **ours},
        },
        "spec": merged(file.spec.base, variant.changes),
    }


def _written_of(written: Written, *prefixes: str) -> Written:
    """The scalars as written below `spec`. If several prefixes have one, the last counts."""
    return {
        f"spec{path.removeprefix(prefix)}": text
        for prefix in prefixes
        for path, text in written.items()
        if path.startswith((f"{prefix}.", f"{prefix}["))
    }


def _name_faults(file: ExperimentFile) -> Iterator[Fault]:
    """Names that two variants share, or that make a run's name too long."""
    first: dict[str, Variant] = {}
    for index, variant in enumerate(file.spec.variants):
        path, name = f"spec.variants[{index}].name", run_name(file.metadata.name, variant.name)
        if len(name) > NAME_LIMIT:
            message = (
                f"the run would be named {name}, {len(name)} characters; at most {NAME_LIMIT}: shorten one of the names"
            )
            yield Fault(path, message)
        earlier = first.setdefault(name, variant)
        if earlier is not variant:
            same = earlier.name == variant.name
            alike = "another variant has this name" if same else f"variants {earlier.name} and {variant.name}"
            words = f"their runs would both be named {name}; choose another name"
            yield Fault(path, f"{alike}{', and' if same else ':'} {words}")


def _placed(found: Iterable[Fault], base: set[Fault], spec: ExperimentSpec, index: int) -> Iterator[Fault]:
    """Faults of an arm's run at the place where the user wrote the field: in the base, or in what the variant sets."""
    variant = spec.variants[index]
    changed, given = set(_leaves(variant.changes, "spec")), set(_leaves(spec.base, "spec"))
    for fault in found:
        rest = fault.path.removeprefix("spec")
        set_here = any(_within(fault.path, leaf) for leaf in changed)
        if fault in base and not set_here:
            yield Fault(f"spec.base{rest}", fault.message)
            continue
        set_below = any(_within(leaf, fault.path) for leaf in changed)
        inherited = not set_here and not set_below and any(_within(leaf, fault.path) for leaf in given)
        advice = "; it comes from the base, and null removes it" if inherited else ""
        yield Fault(f"spec.variants[{index}].set{rest}", f"variant {variant.name}: {fault.message}{advice}")


def _within(path: str, other: str) -> bool:
    return path == other or path.startswith((f"{other}.", f"{other}["))


def _leaves(value: Mapping[str, Any], path: str) -> Iterator[str]:
    """Paths of everything that a mapping gives, mappings as a whole included unless they have fields."""
    for name, content in value.items():
        here = at(path, name)
        if isinstance(content, dict) and content:
            yield from _leaves(content, here)
        else:
            yield here


def _arm_faults(
    variants: Sequence[Variant], runs: Sequence[EvolutionRun], base: EvolutionRun | None
) -> Iterator[Fault]:
    """What makes an experiment pointless: two arms alike, a change that changes nothing, nothing that can be shared."""
    storage = (base or runs[0]).spec.storage
    for index, (variant, run) in enumerate(zip(variants, runs, strict=True)):
        path = f"spec.variants[{index}]"
        twin = next(
            (other.name for other, its in zip(variants, runs[:index], strict=False) if its.spec == run.spec), ""
        )
        if run.spec.storage != storage:
            advice = "with another storage, nothing is shared: set it in the base alone"
            yield Fault(f"{path}.set.storage", f"variant {variant.name}: {advice}")
        elif base is not None and variant.changes and run.spec == base.spec:
            yield Fault(
                f"{path}.set", f"variant {variant.name}: changes nothing of the base; without set, it is the base"
            )
        elif twin:
            yield Fault(path, f"variant {variant.name}: is the same run as variant {twin}; change or remove one")
