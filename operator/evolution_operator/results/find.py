"""Finds the results of a run: by the keys that follow from its spec, by those in its status, or by pointers in the store."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import get_args

from evolution_jobs.contract.errors import PermanentError, StageError
from evolution_jobs.contract.keys import RUNS_PREFIX, resolve_keys
from evolution_jobs.contract.manifest import Manifest
from evolution_jobs.contract.names import ALWAYS_MADE, Pointer, named, pointers_prefix
from evolution_jobs.contract.stage import RunRef, StageKind
from evolution_jobs.store.base import Store
from evolution_jobs.store.manifests import LOOKUPS, read_manifest
from evolution_jobs.store.open import open_store
from pydantic import ValidationError

from ..api.spec import EvolutionRunSpec
from ..api.status import RunStatus
from ..local.lookup import Finished
from ..planner.graph import build_graph
from ..planner.observed import Observed, Run
from ..planner.plan import plan
from .results import Results


def results_of_run(run: Run) -> Results:
    """The results of a run file. Its status is what the planner says of the finished stages. Raises StageError."""
    store = open_store(run.spec.storage)
    graph = build_graph(run.spec, dict(run.pins))
    prepare = read_manifest(store, resolve_keys(graph, None)["prepare"])
    contents = prepare.contents if prepare else None
    keys = resolve_keys(graph, contents)
    manifests, faults = _read(store, keys, {"prepare": prepare} if prepare else {})
    finished = Finished({manifest.key: manifest for manifest in manifests.values()}, contents)
    observed = Observed(attempts=(), published=finished.published(run.ref), contents=contents, previous=None)
    status = plan(run, observed, datetime.now(UTC)).status
    return Results(run.ref.namespace, run.ref.name, store, manifests, run.spec, status, faults, observed=False)


def has_pointers(results: Results) -> bool:
    """Whether the storage has results under the run's name, whatever decided them."""
    prefix = pointers_prefix(results.namespace, results.name)
    return any(named(location.removeprefix(prefix)) for location, _ in results.store.list(prefix))


def results_of_status(store: Store, run: RunRef, status: RunStatus, spec: EvolutionRunSpec | None = None) -> Results:
    """The results of a run on a cluster, by the keys in its status. `spec` is None if this version cannot read it."""
    keys = {stage.id: stage.key for stage in status.stages if stage.key and stage.state == "Succeeded"}
    manifests, faults = _read(store, keys)
    return Results(run.namespace, run.name, store, manifests, spec, status, faults)


def results_of_pointers(store: Store, namespace: str | None, name: str) -> Results:
    """The results of a run of which only the storage is known.

    `namespace` may be None if the storage has one run of this name. Raises PermanentError `RunUnknown`, and StageError.
    """
    namespace = namespace or _namespace(store, name)
    prefix = pointers_prefix(namespace, name)
    # A newer run of the name may leave out an output. The earlier run's pointer to that stays, and is of another result.
    deciding: dict[str, str] = {}
    for location in sorted(location for location, _ in store.list(prefix)):
        place = named(location.removeprefix(prefix))
        if place is not None and (place.output in ALWAYS_MADE or place.stage not in deciding):
            deciding[place.stage] = location
    if not deciding:
        raise PermanentError("RunUnknown", f"{store.uri} has no results of a run {namespace}/{name}")
    keys = {stage: _pointer(store, location).key for stage, location in deciding.items()}
    manifests, faults = _read(store, dict(sorted(keys.items(), key=lambda item: _order(item[0]))))
    return Results(namespace, name, store, manifests, faults=faults)


def _pointer(store: Store, location: str) -> Pointer:
    try:
        return Pointer.stored(store.read(location) or b"")
    except ValidationError as error:
        raise PermanentError(
            "PointerInvalid", f"{store.uri}/{location} is no pointer to an artifact; delete it, or name the run file"
        ) from error


def _namespace(store: Store, name: str) -> str:
    """The only namespace in which the storage has a run of this name."""
    places = [location.split("/") for location, _ in store.list(RUNS_PREFIX)]
    found = sorted({each[1] for each in places if len(each) == 4 and each[2] == name and named(each[3])})
    if len(found) == 1:
        return found[0]
    if found:
        raise PermanentError("RunUnknown", f"{store.uri} has a run {name} in {', '.join(found)}; choose one with -n")
    runs = sorted({f"{each[1]}/{each[2]}" for each in places if len(each) == 4})
    there = f"it has {', '.join(runs)}" if runs else "it has no run's results"
    if any(len(each) > 4 and each[2] == name for each in places):
        there = "it has stages of such a run, and no pointers to them: name the run file, or run it again, which writes them"
    raise PermanentError("RunUnknown", f"{store.uri} has no results of a run {name}; {there}")


_KINDS = get_args(StageKind)


def _order(stage: str) -> tuple[int, int, int]:
    """Where a stage stands in a graph: the critical path by round, then evaluations, then judges."""
    kind, _, number = stage.partition("-")
    place = _KINDS.index(kind)
    late = max(0, place - _KINDS.index("dpo"))
    return late, int(number or 0), place


def _read(
    store: Store, keys: Mapping[str, str], known: Mapping[str, Manifest] | None = None
) -> tuple[dict[str, Manifest], dict[str, str]]:
    """By stage id, in the given order: the finished stages' manifests, and why some could not be read.

    Those of `known` were read before.
    """
    before = known or {}

    def read(stage: str) -> Manifest | StageError | None:
        try:
            return before.get(stage) or read_manifest(store, keys[stage])
        except StageError as error:
            return error

    with ThreadPoolExecutor(LOOKUPS) as pool:
        found = list(zip(keys, pool.map(read, keys), strict=True))
    # A store that does not answer at all is one fault, not one for each stage.
    if found and all(isinstance(each, StageError) for _, each in found):
        first = found[0][1]
        assert isinstance(first, StageError)
        raise first
    return (
        {stage: each for stage, each in found if isinstance(each, Manifest)},
        {stage: f"{each.reason}: {each}" for stage, each in found if isinstance(each, StageError)},
    )
