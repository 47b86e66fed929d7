"""Writes the CustomResourceDefinition from the pydantic models, so that offline validation and the API server agree.

    python -m evolution_operator.api.crd [--check]

A structural schema (Kubernetes, "Extend the Kubernetes API with CustomResourceDefinitions") is JSON Schema without
references, unions and `additionalProperties: false`: the API server refuses unknown fields by itself. Cross-field
rules and what must not change are in CEL (KEP-2876).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from evolution_jobs.contract.document import NotInKey
from evolution_jobs.contract.endpoints import Endpoint
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .spec import GROUP, KIND, PLURAL, VERSION, EvolutionRunSpec, Metadata
from .status import RunStatus

FILE = Path(__file__).parents[3] / "crds" / f"{GROUP}_{PLURAL}.yaml"
COMMAND = "make crds"

CHANGEABLE = frozenset({"pod", "shards", "processes", "nodes", "sharding", "champion_metric", "champion_rule"})
"""Fields of a stage's block that do not decide its result, beside those marked `NotInKey`."""
STAGES = ("prepare", "sft", "generation", "reflection", "teacher", "reward", "dpo", "evaluation", "judge")
"""Blocks of which each field is fixed by itself. What is in no key may change."""
SOURCES = ("seed", "base_model", "storage", "data", "preference_source", "preference_weights")
"""Fields of the spec on which every stage depends."""
FIXED = (
    "cannot be changed, because finished stages depend on it: create another EvolutionRun, "
    "which reuses every stage that this does not affect"
)
LIST_KEYS = {"conditions": "type", "stages": "id", "metrics": "iteration"}
"""Lists in the status, with the field that identifies an entry."""

COLUMNS = (
    ("Phase", "string", ".status.phase", 0, "Pending, Running, Suspended, Complete or Failed"),
    ("Reason", "string", ".status.reason", 0, "Why it makes no progress, or why it failed"),
    ("Stage", "string", ".status.stage", 0, "Stage that runs now"),
    ("Progress", "string", ".status.progress", 0, "Finished stages of all"),
    ("Champion", "integer", ".status.champion", 1, "Iteration of the chosen model so far"),
    ("Age", "date", ".metadata.creationTimestamp", 0, ""),
)


def build_crd() -> dict[str, Any]:
    """The CustomResourceDefinition as a JSON-ready document."""
    columns = [
        {"name": name, "type": type_, "jsonPath": path}
        | ({"priority": priority} if priority else {})
        | ({"description": description} if description else {})
        for name, type_, path, priority, description in COLUMNS
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": "evolutionrun",
                "shortNames": ["evo"],
                "categories": ["evolution"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": _resource_schema()},
                }
            ],
        },
    }


def _resource_schema() -> dict[str, Any]:
    name = Metadata.model_json_schema()["properties"]["name"]
    spec = _structural(EvolutionRunSpec)
    status = _without_defaults(_structural(RunStatus))
    for field, key in LIST_KEYS.items():
        status["properties"][field] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    _forbid_changes(spec)
    return {
        "type": "object",
        "description": spec["description"],
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"`{GROUP}/{VERSION}`."},
            "kind": {"type": "string", "description": f"`{KIND}`."},
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": name["maxLength"]}},
            },
            "spec": spec | {"description": "Desired state. Required are a base model, data and storage."},
            "status": status | {"description": "Observed state, written by the operator."},
        },
        "x-kubernetes-validations": [
            _rule(
                f"self.metadata.name.matches('{name['pattern']}')",
                "Job names are made from it: use a-z, 0-9 and - only",
                "metadata.name",
            )
        ],
    }


def _structural(model: type[BaseModel]) -> dict[str, Any]:
    """A model's structural schema, rules included."""
    schema = model.model_json_schema()
    models = {inner.__name__: inner for inner in _models(model)}
    return _converted(schema, schema.get("$defs", {}), models, model)


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The model and all that its fields hold."""
    yield model
    for field in model.model_fields.values():
        for inner in _held(field.annotation):
            yield from _models(inner)


def _held(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _held(argument)


def _converted(
    schema: Mapping[str, Any],
    definitions: Mapping[str, Any],
    models: Mapping[str, type[BaseModel]],
    model: type[BaseModel] | None = None,
) -> dict[str, Any]:
    """One JSON Schema node as a structural one."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return _converted({**definitions[name], **_beside(schema, "$ref")}, definitions, models, models[name])
    if "anyOf" in schema:
        (kept, *others) = [option for option in schema["anyOf"] if option.get("type") != "null"]
        if others:
            assert {option["type"] for option in (kept, *others)} == {"string", "integer"}, (
                "no other union is structural"
            )
            # These bounds hold for text alone. The operator checks those of the integer.
            text = kept if kept["type"] == "string" else others[0]
            bounds = {name: text[name] for name in ("pattern", "maxLength") if name in text}
            return _beside(schema, "anyOf", "title", "default") | bounds | {"x-kubernetes-int-or-string": True}
        return _converted({**kept, **_beside(schema, "anyOf")}, definitions, models, model)
    node = _beside(schema, "$defs", "title", "properties", "items", "additionalProperties", "default")
    if "const" in node:
        node["enum"] = [node.pop("const")]
    for bound, plain in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in node:
            node |= {plain: node[bound], bound: True}
    default = schema.get("default")
    if isinstance(default, Mapping):
        # The defaults of what is in it are its own.
        node["default"] = {}
    elif default is not None and default != []:
        node["default"] = default
    if "items" in schema:
        node["items"] = _converted(schema["items"], definitions, models)
    inner = schema.get("additionalProperties")
    if isinstance(inner, Mapping):
        node["additionalProperties"] = _converted(inner, definitions, models)
    elif inner is True:
        node["x-kubernetes-preserve-unknown-fields"] = True
    if "properties" in schema:
        node["properties"] = {
            name: _converted(inner, definitions, models) for name, inner in schema["properties"].items()
        }
        rules = [_rule(rule.cel, rule.message, rule.field) for rule in getattr(model, "rules", ())]
        if rules:
            node["x-kubernetes-validations"] = rules
    return node


def _beside(schema: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name not in names}


def _rule(cel: str, message: str, field: str | None = None) -> dict[str, str]:
    return {"rule": cel, "message": message} | ({"fieldPath": f".{field}"} if field else {})


def _forbid_changes(spec: dict[str, Any]) -> None:
    """Transition rules: what finished work depends on stays, and rounds are only ever added."""
    fields = EvolutionRunSpec.model_fields
    for name in SOURCES:
        _add_rule(_property(spec, fields, name), _rule("self == oldSelf", FIXED))
    _add_rule(
        _property(spec, fields, "iterations"),
        _rule("self >= oldSelf", "may only be raised: its rounds have run or are running"),
    )
    for name in STAGES:
        (block,) = _held(fields[name].annotation)
        _forbid_changes_of(block, _property(spec, fields, name))


def _forbid_changes_of(block: type[BaseModel], node: dict[str, Any]) -> None:
    """Each field of a block stays as it is, but for those that decide no result."""
    for name, field in block.model_fields.items():
        if name in CHANGEABLE or _is_not_in_key(field):
            continue
        child = _property(node, block.model_fields, name)
        wire = field.alias
        if field.is_required() or "default" in child:
            _add_rule(child, _rule("self == oldSelf", FIXED))
        elif endpoints := [each for each in _held(field.annotation) if issubclass(each, Endpoint)]:
            # Where and how fast it is asked may change.
            _add_rule(node, _rule(f"has(self.{wire}) == has(oldSelf.{wire})", FIXED, wire))
            _forbid_changes_of(endpoints[0], child)
        else:
            _add_rule(
                node,
                _rule(
                    f"has(self.{wire}) == has(oldSelf.{wire}) && (!has(self.{wire}) || self.{wire} == oldSelf.{wire})",
                    FIXED,
                    wire,
                ),
            )


def _is_not_in_key(field: FieldInfo) -> bool:
    return any(marker is NotInKey or isinstance(marker, NotInKey) for marker in field.metadata)


def _property(node: dict[str, Any], fields: Mapping[str, FieldInfo], name: str) -> dict[str, Any]:
    child: dict[str, Any] = node["properties"][fields[name].alias]
    return child


def _add_rule(node: dict[str, Any], rule: dict[str, str]) -> None:
    node.setdefault("x-kubernetes-validations", []).append(rule)


def _without_defaults(node: Any) -> Any:
    """The schema without defaults: a status contains only what is known."""
    if isinstance(node, list):
        return [_without_defaults(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {name: _without_defaults(value) for name, value in node.items() if name != "default"}


class _Dumper(yaml.SafeDumper):
    """Writes no anchors, because YAML references are hard to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render() -> str:
    """The CRD's file."""
    text = yaml.dump(build_crd(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return f"# Written from the models in evolution_operator/api by `{COMMAND}`; not edited by hand.\n{text}"


def main() -> int:
    """Write the file, or with --check say whether it is what would be written."""
    parser = argparse.ArgumentParser(prog="python -m evolution_operator.api.crd", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the file is out of date")
    parser.add_argument("--output", type=Path, default=FILE, metavar="FILE")
    arguments = parser.parse_args()
    text = render()
    if not arguments.check:
        arguments.output.parent.mkdir(exist_ok=True)
        arguments.output.write_text(text)
        return 0
    if arguments.output.exists() and arguments.output.read_text() == text:
        return 0
    sys.stderr.write(f"{arguments.output} differs from the models in evolution_operator/api: run `{COMMAND}`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
