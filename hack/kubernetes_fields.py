"""Writes the fields of Kubernetes' own objects below `pod`, from the models of the Kubernetes client.

    python -m hack.kubernetes_fields [--check]

`evolution validate` needs them without importing that client, which takes a second.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from kubernetes import client

FILE = Path(__file__).parents[1] / "operator/evolution_operator/api/kubernetes_fields.json"
ROOTS = ("V1Volume", "V1Affinity", "V1TopologySpreadConstraint")
PLAIN = {"str": "text", "int": "integer", "bool": "boolean", "object": "any", "datetime": "text"}
QUANTITIES = {"divisor", "limits", "requests", "sizeLimit"}
"""Fields that take a quantity: the client's models say only that they are text."""


def fields() -> dict[str, dict[str, str]]:
    """Every field of every object below the roots: `text`, `[text]`, `{quantity}` or an object's name; `!` if required."""
    found: dict[str, dict[str, str]] = {}
    pending = list(ROOTS)
    while pending:
        name = pending.pop()
        if name.removeprefix("V1") in found:
            continue
        model: Any = getattr(client, name)
        found[name.removeprefix("V1")] = {
            wire: _short(model.openapi_types[attribute], wire) + "!" * model.model_fields[attribute].is_required()
            for attribute, wire in model.attribute_map.items()
        }
        pending += re.findall(r"V1\w+", " ".join(model.openapi_types.values()))
    return dict(sorted(found.items()))


def _short(type_: str, wire: str) -> str:
    if (of := re.fullmatch(r"(?:list|List)[\[(](.+)[\])]", type_)) is not None:
        return f"[{_short(of[1], wire)}]"
    if (of := re.fullmatch(r"(?:dict|Dict)[\[(]str, (.+)[\])]", type_)) is not None:
        return f"{{{_short(of[1], wire)}}}"
    short = PLAIN.get(type_, type_.removeprefix("V1"))
    return "quantity" if short == "text" and wire in QUANTITIES else short


def render() -> str:
    """The file's text, one object a line."""
    lines = (f"{json.dumps(name)}: {json.dumps(wire)}" for name, wire in fields().items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> int:
    """Write the file, or with --check say whether it is what would be written."""
    parser = argparse.ArgumentParser(prog="python -m hack.kubernetes_fields", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the file is out of date")
    if not parser.parse_args().check:
        FILE.write_text(render())
        return 0
    if FILE.exists() and FILE.read_text() == render():
        return 0
    sys.stderr.write(f"{FILE} differs from the Kubernetes client's models: run `make crds`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
