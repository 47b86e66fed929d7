"""Checks Kubernetes' own objects in a run file: volumes, affinity, spread constraints. Offline, so only their form.

The API server knows the fields of its own version, which may be newer. So only `evolution validate` and `evolution run`
refuse unknown fields here. On a cluster the API server does (`PodInvalid`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from .messages import must_be_text, unknown_field
from .quantities import amount, no_quantity
from .run_file import Fault, Written, at

FILE = Path(__file__).with_name("kubernetes_fields.json")
"""Written by hack/kubernetes_fields.py, which explains its types."""

CHOICES = {
    "LabelSelectorRequirement.operator": ("In", "NotIn", "Exists", "DoesNotExist"),
    "NodeSelectorRequirement.operator": ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"),
    "TopologySpreadConstraint.whenUnsatisfiable": ("DoNotSchedule", "ScheduleAnyway"),
}
"""Fields that take one of some words."""


def object_faults(kind: str, value: Any, path: str, written: Written) -> Iterator[Fault]:
    """What is wrong with an object of this kind (`Volume`). `written` has scalars as written in the file, by path."""
    if not isinstance(value, dict):
        yield Fault(path, "must be a mapping")
        return
    fields = _fields()[kind]
    for name, content in value.items():
        here = at(path, str(name))
        if name not in fields:
            yield Fault(here, unknown_field(str(name), fields))
        elif content is not None:
            yield from _value_faults(fields[name].rstrip("!"), content, here, written)
            allowed = CHOICES.get(f"{kind}.{name}")
            if allowed and isinstance(content, str) and content not in allowed:
                yield Fault(here, f"must be {', '.join(allowed[:-1])} or {allowed[-1]}, not {content!r}")
    for name, type_ in fields.items():
        if type_.endswith("!") and value.get(name) is None:
            yield Fault(at(path, name), "is required")


def _value_faults(type_: str, value: Any, path: str, written: Written) -> Iterator[Fault]:
    match type_[0], value:
        case "[", list():
            for index, item in enumerate(value):
                yield from _value_faults(type_[1:-1], item, at(path, index), written)
        case "[", _:
            yield Fault(path, "must be a list")
        case "{", dict():
            for name, item in value.items():
                yield from _value_faults(type_[1:-1], item, at(path, str(name)), written)
        case "{", _:
            yield Fault(path, "must be a mapping")
        case _:
            yield from _scalar_faults(type_, value, path, written)


def _scalar_faults(type_: str, value: Any, path: str, written: Written) -> Iterator[Fault]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match type_:
        case "any":
            return
        case "text" if not isinstance(value, str):
            yield Fault(path, must_be_text(value, written.get(path)))
        case "integer" if not isinstance(value, int) or isinstance(value, bool):
            yield Fault(path, "must be a whole number")
        case "boolean" if not isinstance(value, bool):
            yield Fault(path, "must be true or false")
        case "quantity" if isinstance(value, str) and amount(value) is None:
            yield Fault(path, no_quantity(value))
        case "quantity" if not isinstance(value, str) and not number:
            yield Fault(path, "must be a Kubernetes quantity, such as 32Gi")
        case "text" | "integer" | "boolean" | "quantity":
            return
        case _:
            yield from object_faults(type_, value, path, written)


@cache
def _fields() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(FILE.read_text())
    return found
