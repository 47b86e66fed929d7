"""From a run file to a run that this machine can drive."""

from __future__ import annotations

from pathlib import Path

from evolution_jobs.contract.errors import StageError
from evolution_jobs.contract.locations import ModelSource, Source, Storage
from evolution_jobs.contract.stage import RunRef
from evolution_jobs.store.data_sources import local_path, open_bucket
from pydantic import ValidationError

from ..api.experiment import load_experiment
from ..api.messages import explain
from ..api.run_file import Fault
from ..api.spec import EvolutionRun, EvolutionRunSpec
from ..api.validation import RunFileError, load_run, resolve_paths
from ..planner.observed import Run
from .driver import attempt_prefix


def local_run(path: Path, storage: str | None = None) -> Run:
    """The run in a file, with relative paths resolved against the file's directory.

    `storage` replaces `spec.storage.uri`, relative to the current directory. Raises RunFileError.
    """
    return local_run_of(load_run(path), path.resolve().parent, storage)


def local_run_of(run: EvolutionRun, directory: Path, storage: str | None = None) -> Run:
    """The same of a run that is not in a file, with relative paths resolved against `directory`. Raises RunFileError."""
    run = _placed(run, directory, storage)
    return _run(run, pins(run.spec, _uid(run.metadata.namespace, run.metadata.name)))


def local_arms(path: Path, storage: str | None = None) -> dict[str, Run]:
    """By variant: the runs of the experiment in a file, as `local_run` has one. Raises RunFileError.

    The runs share what is known of their sources, so that sources without a stamp (the hub) are read once for all of them.
    """
    experiment = load_experiment(path)
    uid = _uid(experiment.namespace, experiment.name)
    runs = {arm.variant: _placed(arm.run, path.resolve().parent, storage) for arm in experiment.arms}
    return {variant: _run(run, pins(run.spec, uid)) for variant, run in runs.items()}


def _uid(namespace: str, name: str) -> str:
    return f"local:{namespace}/{name}"


def _placed(run: EvolutionRun, directory: Path, storage: str | None) -> EvolutionRun:
    """The run with the storage that the command line names, and with relative paths resolved."""
    if storage is not None:
        spec = run.spec.model_copy(update={"storage": storage_at(storage, run.spec.storage)})
        run = run.model_copy(update={"spec": spec})
    return resolve_paths(run, directory)


def _run(run: EvolutionRun, pinned: dict[str, str]) -> Run:
    namespace, name = run.metadata.namespace, run.metadata.name
    ref = RunRef(namespace=namespace, name=name, uid=_uid(namespace, name))
    return Run(ref=ref, spec=run.spec, attempt_prefix=attempt_prefix(), pins=pinned)


def storage_at(place: str, storage: Storage | None = None) -> Storage:
    """The storage at a place, a URI or a directory, as `--storage` names it. Raises RunFileError.

    `storage` is the one that it replaces: an `s3://` place has that one's endpoint, region and credentials.
    """
    uri = place if "://" in place or not place else Path(place).absolute().as_uri()
    if uri.startswith("file://") and not uri.startswith(("file:///", "file://localhost/")):
        uri = f"{Path.cwd().as_uri()}/{uri.removeprefix('file://')}"
    document = {"uri": uri} if uri.startswith("file://") or storage is None else storage.wire() | {"uri": uri}
    try:
        return Storage.model_validate(document)
    except ValidationError as error:
        raise RunFileError("--storage", [Fault("--storage", explain(error.errors(include_url=False)[:1]))]) from None


def pins(spec: EvolutionRunSpec, uid: str) -> dict[str, str]:
    """Values that differ once a source has changed: size and time of local files, the tag of an object in S3.

    Prepare runs again if one of them differs. For a source without such a value (the hub, a folder in S3), prepare runs once
    for each run (`uid`).
    """
    others = (spec.reward and spec.reward.model, spec.evaluation.sentence_model)
    models: list[ModelSource] = [spec.base_model, *(other for other in others if other)]
    places: list[ModelSource | Source] = [*models, *spec.data.data_sets]
    found = {}
    for place in places:
        try:
            if place.uri.startswith("file://"):
                found[place.uri] = _stamp(local_path(place.uri, "source"))
                continue
            if place.uri.startswith("s3://") and isinstance(place, Source) and not place.uri.endswith("/"):
                found[place.uri] = _tag(place, spec.storage)
                continue
        except (OSError, StageError):
            # prepare reports the fault with a better message.
            continue
        if not place.uri.startswith("package://"):
            found["run"] = uid
    return found


def _stamp(path: Path) -> str:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [(file.relative_to(path).as_posix(), file.stat()) for file in files]
    return "-".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)


def _tag(source: Source, storage: Storage) -> str:
    bucket, key = open_bucket(source.uri, storage, source.endpoint, source.credentials_secret)
    return bucket.tag(key) or ""
