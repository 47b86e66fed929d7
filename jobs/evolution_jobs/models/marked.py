"""The mark of a base model that every stage quantises as it loads it. It is one of the model's files.

So it enters the model's digest, and through that the key of every stage that loads the model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from ..contract.errors import PermanentError
from ..contract.locations import Quantization

MARK = "evolution-quantization.json"
"""No file that a model ships has this name."""


def mark(directory: Path, quantization: Quantization, reference: str | None) -> Path:
    """Write the mark among the model's files. `reference` is that of a model that is not copied: it pins it."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {"quantization": quantization, **({"reference": reference} if reference else {})}
    (directory / MARK).write_text(json.dumps(content, sort_keys=True) + "\n", "utf-8")
    return directory


def quantization_of(directory: Path) -> Quantization | None:
    """The quantisation of a model by its files; None if it has no mark.

    Raises PermanentError `ModelIncomplete` if this version does not know it.
    """
    path = directory / MARK
    if not path.exists():
        return None
    found: Any = json.loads(path.read_text("utf-8")).get("quantization")
    if found not in get_args(Quantization):
        raise PermanentError("ModelIncomplete", f"{path}: quantization {found} is not known to this version")
    quantization: Quantization = found
    return quantization
