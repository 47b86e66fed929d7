"""Which layers of a model LoRA can adapt, looked up by PEFT's rule. Pure.

PEFT adapts a layer if a target is its path or the end of its path after a dot. It refuses only if no target finds a layer,
and drops the others silently (PEFT issue 1959).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from ..contract.settings import ALL_LINEAR

FIELD = "sft.lora.targetModules"
LISTED = 20
"""Most names of layers in a message."""

Shape = tuple[int, ...]


class Layers(NamedTuple):
    """The layers of a model that have a weight."""

    shapes: Mapping[str, Shape]
    """Shape of each layer's weight by the layer's path. A linear layer's has two dimensions."""
    heads: Collection[str]
    """Names or paths of the output head."""
    embeddings: Collection[str]
    """Names or paths of the embeddings."""
    tied: bool
    """Whether the output head is the embedding's weight."""
    whole_paths: bool = True
    """Whether the paths are those of the loaded model. A checkpoint's may lack the first names ("transformer.")."""

    @property
    def linear(self) -> list[str]:
        """Last names of the layers that can be adapted, each once, in the model's order."""
        apart = {*self.heads, *self.embeddings}
        paths = [path for path, shape in self.shapes.items() if len(shape) == 2]
        last = [path.rpartition(".")[2] for path in paths if not (finds(path, apart) or path in apart)]
        return list(dict.fromkeys(name for name in last if not name.isdigit()))


def finds(path: str, targets: Collection[str]) -> bool:
    """Whether one of the targets names the layer at a path."""
    return any(path == target or path.endswith(f".{target}") for target in targets)


def target_fault(targets: Sequence[str], layers: Layers) -> str | None:
    """What is wrong with the targets, for the user; None if each of them finds a layer to adapt."""
    if list(targets) == [ALL_LINEAR]:
        return None
    missing = [target for target in targets if not _found(target, layers)]
    faults = [fault for target in targets if target not in missing and (fault := _unfit(target, layers))]
    heads = [target for target in missing if finds(target, layers.heads)]
    faults += [_no_head(head) for head in heads]
    if missing := [target for target in missing if target not in heads]:
        faults.append(_missing(missing, layers.linear))
    return f"{FIELD}: {'; '.join(faults)}" if faults else None


def _found(target: str, layers: Layers) -> bool:
    if any(finds(path, [target]) for path in layers.shapes):
        return True
    return not layers.whole_paths and any("." in path and target.endswith(f".{path}") for path in layers.shapes)


def _unfit(target: str, layers: Layers) -> str | None:
    """Why layers that exist cannot be adapted."""
    paths = [path for path in layers.shapes if finds(path, [target])]
    if any(finds(path, layers.heads) for path in paths):
        return _no_head(target)
    if layers.tied and any(finds(path, layers.embeddings) for path in paths):
        return f"{target} shares its weight with the output head, which cannot be adapted; leave it out"
    if not any(len(layers.shapes[path]) == 2 for path in paths):
        return f"{target} is no linear layer (the model has {_listed(layers.linear)})" if paths else None
    return None


def _no_head(target: str) -> str:
    return f"the output head cannot be adapted; leave {target} out"


def _missing(missing: Sequence[str], names: Sequence[str]) -> str:
    kind = "layer" if len(missing) == 1 else "layers"
    close = {target: get_close_matches(target.strip(), [*names, ALL_LINEAR], 1, 0.75) for target in missing}
    guesses = list(dict.fromkeys(guess for found in close.values() for guess in found))
    hint = f"; did you mean {', '.join(guesses)}?" if guesses else ""
    if any(re.search(r"[^\w.\-]", target.strip()) for target in missing):
        hint += "; write each layer's name as an item of its own, without patterns"
    return f"this model has no {kind} {', '.join(missing)} (it has {_listed(names)}){hint}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) + more) or "no linear layer"
