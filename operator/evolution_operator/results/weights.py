"""The files of a run's models on this machine: adapters, and the base model where the run has copied it.

Files of a storage on this machine are read in place. Others are kept in `$XDG_CACHE_HOME/evolution/weights`, each under its
sha256, so a second call fetches nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from evolution_jobs.attempt.model_cache import ModelCache
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.locations import Quantization
from evolution_jobs.contract.manifest import Output
from evolution_jobs.models.marked import quantization_of
from evolution_jobs.store.base import disk_error, inside, verified_local

from .results import Results


@dataclass(frozen=True)
class Base:
    """The model that a run starts from."""

    uri: str
    """As the run file names it."""
    reference: str | None
    """Where it lies if the run has not copied it: `hf://owner/name@commit`, `file:///directory`, `pvc://claim/path`."""
    output: Output
    """Its files in the storage; of a model that is not copied, its digests alone."""

    @property
    def hub(self) -> tuple[str, str] | None:
        """Name and commit of a model on the Hugging Face Hub."""
        if self.reference is None or not self.reference.startswith("hf://"):
            return None
        name, _, commit = self.reference.removeprefix("hf://").partition("@")
        return name, commit


def base_of(results: Results) -> Base:
    """The run's base model. Raises PermanentError `ArtifactMissing` if prepare has not finished."""
    if "prepare" not in results.manifests:
        why = results.faults.get("prepare", "stage prepare has not finished, or the storage does not say which it is")
        raise PermanentError("ArtifactMissing", f"the base model of run {results.name} is not known: {why}")
    prepare = results.manifests["prepare"]
    output = prepare.outputs["model"]
    return Base(prepare.settings["baseModel"]["uri"], output.reference, output)


@dataclass(frozen=True)
class Weights:
    """Files of models as directories below a temporary one."""

    results: Results
    directory: Path
    cache: ModelCache
    _provided: dict[str, Path] = field(default_factory=dict)

    def adapter(self, name: str) -> Path:
        """The directory of a model's adapter, verified. Raises PermanentError `ArtifactMissing`, and what the store raises."""
        return self._provide(name, self.results.artifact(name).output)

    def base(self) -> tuple[Path | str, Quantization | None]:
        """The base model, as `models.load` takes it, and how it is quantised as it is loaded."""
        base = base_of(self.results)
        files = self._provide("base", base.output)
        return base.reference or files, quantization_of(files)

    def file(self, name: str) -> Path:
        """The only file of an artifact: `answers-2`, `test`."""
        output = self.results.artifact(name).output
        return self._provide(name, output) / output.files[0].path

    def _provide(self, name: str, output: Output) -> Path:
        target = self.directory / name
        if name not in self._provided:
            target.mkdir(parents=True)
            for file in output.files:
                link = inside(target, file.path)
                link.parent.mkdir(parents=True, exist_ok=True)
                store = self.results.store
                link.symlink_to(verified_local(store, file) or self.cache.provide(store, file))
            self._provided[name] = target
        return target


@contextmanager
def weights_of(results: Results) -> Iterator[Weights]:
    """The files of a run's models, while the context lasts. Raises StageError (`StorageDenied`, `DiskFull`)."""
    root = weights_cache()
    try:
        (root / "files").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, root) from error
    with TemporaryDirectory(prefix="evolution-weights-") as directory:
        yield Weights(results, Path(directory), ModelCache(root))


def weights_cache() -> Path:
    """Where fetched files are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolution" / "weights"
