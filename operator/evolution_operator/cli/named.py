"""Which run a command means: a run file, a run on the cluster, or a run by its name in a storage."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.stage import RunRef
from evolution_jobs.store.open import directory_of, open_store
from pydantic import ValidationError

from ..api.messages import explain
from ..api.spec import EvolutionRunSpec
from ..results.results import Results
from .completion import run_names
from .console import open_console, say
from .reach import reached_from_here, storage_through

RUN_FILES = (".yaml", ".yml")
RUN_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
"""A run's name on the cluster."""

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE",
        help="A run file (.yaml), a run on the cluster, or with --storage a run that this storage has.",
        autocompletion=run_names,
    ),
]
NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace of the run.")]
EndpointOption = Annotated[
    str | None,
    typer.Option("--endpoint", help="URL of the S3 service as this machine reaches it, in place of storage.endpoint."),
]


def open_results(
    reference: str, namespace: str | None = None, storage: str | None = None, *, endpoint: str | None = None
) -> Results:
    """The results of the run that a command names.

    - A run file (.yaml): by the keys that follow from its spec. `storage` replaces `spec.storage.uri`.
    - A name: the run on the cluster, by the keys in its status.
    - A name and `storage` (a URI or a directory): by the pointers in that storage, without a cluster.

    `endpoint` replaces that of the storage: a cluster's own name of a service means nothing elsewhere.

    Raises RunFileError, PermanentError (`RunUnknown`, `NoCluster`, ...), and what the store raises.
    """
    from ..local.load import local_run, storage_at
    from ..results.find import results_of_pointers, results_of_run, results_of_status

    if storage is not None:
        _refuse_absent(storage_at(storage))
    if reference.endswith(RUN_FILES):
        found = local_run(Path(reference), storage)
        spec = found.spec.model_copy(update={"storage": storage_through(found.spec.storage, endpoint)})
        return results_of_run(replace(found, spec=spec))
    if not RUN_NAME.fullmatch(reference):
        words = "is neither a run file (.yaml) nor the name of a run"
        raise PermanentError("RunUnknown", f"{reference!r} {words}")
    if storage is not None:
        return results_of_pointers(open_store(storage_through(storage_at(storage), endpoint)), namespace, reference)
    from .cluster import fetch, read_status

    try:
        document = fetch(reference, namespace)
    except PermanentError as error:
        if error.reason != "NoCluster":
            raise
        words = f"{error}. A run of this machine is named by its file (.yaml), one in a storage with --storage"
        raise PermanentError("NoCluster", words) from error
    wanted, run = storage_through(storage_of(document, reference), endpoint), run_of(document)
    with reached_from_here(wanted, run.namespace):
        return results_of_status(open_store(wanted), run, read_status(document.get("status", {})), _spec_of(document))


def read_results(
    run: str, namespace: str | None = None, storage: str | None = None, *, endpoint: str | None = None
) -> Results:
    """`open_results`; if a run file has no results and its storage has some of this name, a line says how to read those."""
    from ..results.find import has_pointers

    results = open_results(run, namespace, storage, endpoint=endpoint)
    if not results.observed and not results.manifests and has_pointers(results):
        say(open_console(stderr=True), _of_another_call(results))
    return results


def _of_another_call(results: Results) -> str:
    """Where earlier results are, if a run file has none: its settings or data differ, or the files' places and times."""
    endpoint = results.spec.storage.endpoint if results.spec else None
    place = reference(results.name, results.namespace, results.store.uri, endpoint)
    return (
        f"Nothing has finished with these settings and data files. {results.store.uri} has earlier results of run {results.name}: "
        f"name them by {place}. If you have only moved the files, call evolution run once more: it finds all but prepare."
    )


def _refuse_absent(storage: Storage) -> None:
    """A directory that is named to be read must be there. Raises PermanentError `RunUnknown`."""
    if storage.uri.startswith("file://") and not (place := directory_of(storage)).is_dir():
        raise PermanentError("RunUnknown", f"--storage: there is no directory {place}")


def reference(run: str, namespace: str | None = None, storage: str | None = None, endpoint: str | None = None) -> str:
    """The run as a printed command names it."""
    options = {"-n": namespace, "--storage": storage, "--endpoint": endpoint}
    return shlex.join(
        [run, *(word for option, value in options.items() if value is not None for word in (option, value))]
    )


def run_of(document: Mapping[str, Any]) -> RunRef:
    """The identity of a run on the cluster."""
    metadata = document["metadata"]
    return RunRef(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])


def storage_of(document: Mapping[str, Any], run: str) -> Storage:
    """The storage of a run on the cluster. The rest of its spec is not read: a newer operator may know more.

    Raises PermanentError `SpecUnreadable`.
    """
    spec: Any = document.get("spec") or {}
    try:
        return Storage.stored(spec.get("storage"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(["spec.storage", *map(str, first["loc"])])
        words = first["msg"] if first["type"] == "rule" else explain([first])
        raise PermanentError(
            "SpecUnreadable",
            f"{run}: this command cannot read {field} on the cluster ({words}); use the command of the operator's version",
        ) from error


def _spec_of(document: Mapping[str, Any]) -> EvolutionRunSpec | None:
    """The spec, or None if a newer operator has taken one that this version does not know."""
    try:
        return EvolutionRunSpec.model_validate(document.get("spec"))
    except ValidationError:
        return None
