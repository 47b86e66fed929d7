"""Validates a run file: an `EvolutionRun`, or everything that is wrong with it, each fault with its path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from posixpath import normpath
from typing import Any, TypeVar, get_args
from urllib.parse import quote

from evolution_jobs.contract.document import Rule
from evolution_jobs.contract.locations import BaseModelSource, RewardModelSource, SentenceModelSource, Source, Storage
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .messages import UNKNOWN_FIELD, explain, unknown_field
from .pod_faults import pod_faults
from .run_file import Fault, Written, at, read_document
from .spec import EvolutionRun

Place = TypeVar("Place", Source, BaseModelSource, RewardModelSource, SentenceModelSource, Storage)
Model = TypeVar("Model", bound=BaseModel)

Checked = TypeVar("Checked")

EXPERIMENT = "Experiment"
"""Kind of a file with several runs (`experiment.py`)."""


class RunFileError(Exception):
    """A run file cannot be used. `str(error)` has one line a fault, each with the file's name in front."""

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(f"{source}: {fault}" for fault in faults))
        self.source = source
        self.faults = tuple(faults)


def load_run(path: Path) -> EvolutionRun:
    """The run in a file.

    Raises RunFileError if the file cannot be read or is no valid run.
    """
    return read_valid(path, validated)


def read_valid(path: Path, check: Callable[[object, Written], tuple[Checked | None, list[Fault]]]) -> Checked:
    """What `check` makes of the document in a file. Raises RunFileError with all faults of the file and its fields."""
    document, found, written = read_document(path)
    checked = None
    if document is not None or not found:
        checked, invalid = check(document, written)
        found = joined(found, invalid)
    if checked is None or found:
        raise RunFileError(str(path), found)
    return checked


def joined(of_file: Iterable[Fault], of_fields: Sequence[Fault]) -> list[Fault]:
    """All faults. What the file says of the key of an unknown field is left out: the field is to be removed."""
    unknown = {fault.path for fault in of_fields if UNKNOWN_FIELD in fault.message}
    return [*(fault for fault in of_file if fault.path not in unknown), *of_fields]


def faults(document: object, written: Written | None = None) -> list[Fault]:
    """Everything that is wrong with a run as parsed from YAML; empty if nothing is.

    `written` has its scalars as the file has them.

    Types are checked as the API server checks them, so `iterations: "2"` is a fault. A rule across fields is checked
    even if other fields are wrong, as long as the fields that it reads are valid.
    """
    return validated(document, written or {})[1]


def validated(document: object, written: Written) -> tuple[EvolutionRun | None, list[Fault]]:
    """The run, or None and what is wrong with it."""
    if isinstance(document, dict) and document.get("kind") == EXPERIMENT:
        advised = "use `evolution experiment run -f FILE`, and `evolution plan` or `validate` as for one run"
        return None, [Fault("kind", f"is {EXPERIMENT}, which is several runs: {advised}")]
    run, found = read_as(EvolutionRun, document, written)
    if not isinstance(document, dict):
        return None, found
    found = [*(Fault(name, "is required") for name in ("apiVersion", "kind") if document.get(name) is None), *found]
    known = {fault.path for fault in found}
    found += [fault for fault in pod_faults(document, written) if fault.path not in known]
    return (None if found else run), found


def read_as(model: type[Model], document: object, written: Written) -> tuple[Model | None, list[Fault]]:
    """The document as a model, or None and what is wrong with its fields and rules.

    As in the API server, only wire names count, and text does not stand for a number.
    """
    if not isinstance(document, dict):
        return None, [Fault("", "must be a mapping with apiVersion, kind, metadata and spec")]
    plain: Any = _without_nulls(model, document)
    try:
        return model.model_validate(plain, strict=True, by_alias=True, by_name=False), []
    except ValidationError as error:
        found = list(_field_faults(model, plain, error.errors(include_url=False), written))
    broken: list[Fault] = []
    _readable(model, plain, "", {fault.path for fault in found}, broken)
    return None, found + broken


def resolve_paths(run: EvolutionRun, directory: Path) -> EvolutionRun:
    """The run as one machine has it: every relative `file://path` resolved against the run file's directory, no volumes."""
    root = quote(str(directory.absolute()))

    def absolute(place: Place) -> Place:
        rest = place.uri.removeprefix("file://")
        if rest == place.uri or rest.startswith(("/", "localhost/")):
            return place
        return place.model_copy(update={"uri": "file://" + normpath(f"{root}/{rest}")})

    spec, data, sentence = run.spec, run.spec.data, run.spec.evaluation.sentence_model
    sources = {
        "seed": [absolute(source) for source in data.seed],
        "replay": [absolute(source) for source in data.replay],
        "contexts": [absolute(source) for source in data.contexts],
        "test": [absolute(source) for source in data.test],
    }
    places = {
        "base_model": absolute(spec.base_model),
        "storage": absolute(spec.storage),
        "data": data.model_copy(update=sources),
        "reward": spec.reward
        and spec.reward.model_copy(update={"model": spec.reward.model and absolute(spec.reward.model)}),
        "evaluation": spec.evaluation.model_copy(update={"sentence_model": sentence and absolute(sentence)}),
        # Stages on one machine share its own cache of the hub.
        "model_cache": None,
    }
    return run.model_copy(update={"spec": spec.model_copy(update=places)})


def _without_nulls(model: type[BaseModel], value: Any) -> Any:
    """The value without empty fields. As in the API server, an empty field is unset, not a fault."""
    if isinstance(value, list):
        return [_without_nulls(model, item) for item in value]
    if not isinstance(value, dict):
        return value
    submodels = {field.alias or name: _submodel(field.annotation) for name, field in model.model_fields.items()}
    return {
        name: content if (submodel := submodels.get(name)) is None else _without_nulls(submodel, content)
        for name, content in value.items()
        if content is not None or name not in submodels
    }


def _field_faults(
    model: type[BaseModel], document: Any, errors: Iterable[ErrorDetails], written: Written
) -> Iterator[Fault]:
    """Faults of single fields. `_readable` finds broken rules."""
    grouped: dict[str, list[ErrorDetails]] = {}
    branches: set[str] = set()
    for error in errors:
        if error["type"] != "rule":
            path, branch = _path(document, error)
            grouped.setdefault(path, []).append(error)
            if branch:
                branches.add(path)
    for path, found in grouped.items():
        # Of a union's alternatives only the one that fits best is reported: the one that reached a list item.
        if path in branches and any(other.startswith(f"{path}[") for other in branches):
            continue
        if found[0]["type"] == "extra_forbidden":
            *parents, name = found[0]["loc"]
            yield Fault(path, unknown_field(str(name), _known(model, parents)))
        else:
            yield Fault(path, explain(found, written.get(path), secret=path.lower().endswith("secret")))


def _path(document: Any, error: ErrorDetails) -> tuple[str, bool]:
    """The path of an error, and whether it contains the name of a union's alternative, which is not in the file."""
    path, branch, value = "", False, document
    for part in error["loc"]:
        if isinstance(value, dict) and part in value:
            path, value = at(path, str(part)), value[part]
        elif isinstance(value, list) and isinstance(part, int):
            path, value = at(path, part), value[part]
        elif error["type"] == "missing":
            path = at(path, part)
        else:
            branch = True
    return path, branch


def _known(model: type[BaseModel], parents: Iterable[str | int]) -> list[str]:
    """Wire names of the fields beside an unknown one."""
    for part in parents:
        if isinstance(part, str):
            field = next(field for name, field in model.model_fields.items() if part in (field.alias, name))
            model = _submodel(field.annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _submodel(annotation: Any) -> type[BaseModel] | None:
    """The model that a field, or each item of a field, is."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _submodel(inner)) is not None), None)


def _readable(
    model: type[BaseModel], value: Mapping[str, Any], path: str, wrong: set[str], broken: list[Fault]
) -> BaseModel:
    """The readable part of a document with faults, without the fields at `wrong`. Adds broken rules to `broken`.

    pydantic checks no rule of a model with an invalid field, so the user would see that fault only in the next try.
    """
    fields: dict[str, Any] = {}
    unreadable: list[str] = []
    for name, field in model.model_fields.items():
        alias = field.alias or name
        here = at(path, alias)
        submodel = _submodel(field.annotation)
        content = value.get(alias)
        if submodel is not None and isinstance(content, dict):
            fields[name] = _readable(submodel, content, here, wrong, broken)
        elif submodel is not None and isinstance(content, list):
            fields[name] = [
                _readable(submodel, item, at(here, index), wrong, broken)
                for index, item in enumerate(content)
                if isinstance(item, dict)
            ]
        elif any(other == here or other.startswith((f"{here}[", f"{here}.")) for other in wrong):
            unreadable.append(name)
        elif alias in value:
            fields[name] = content
    document = model.model_construct(None, **fields)
    for name in unreadable:
        # Reading it raises AttributeError, so a rule about it is skipped.
        document.__dict__.pop(name, None)
    rules: tuple[Rule, ...] = getattr(model, "rules", ())
    broken.extend(Fault(at(path, rule.field), rule.told(document)) for rule in rules if not _holds(rule, document))
    return document


def _holds(rule: Rule, document: BaseModel) -> bool:
    try:
        return rule.holds(document)
    except (AttributeError, KeyError, TypeError):
        return True
