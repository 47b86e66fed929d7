"""Reads what models answered: from files, from the store of a run file, or from the store of a run on a cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.jsonl import RowFault, rows_by_id
from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.manifest import Manifest
from evolution_jobs.contract.rows import Answer
from evolution_jobs.contract.stage import kind_of
from evolution_jobs.store.base import Store
from evolution_jobs.store.manifests import read_manifest
from evolution_jobs.store.open import open_store

from ..planner.graph import build_graph
from ..planner.observed import Run


def answers_of_file(path: Path) -> list[Answer]:
    """The rows of an `answers.jsonl`. Raises PermanentError `AnswersInvalid`, which names the file and the line."""
    try:
        with path.open("rb") as file:
            rows = rows_by_id(file, Answer, "context")
    except OSError as error:
        raise PermanentError("AnswersInvalid", f"{path} cannot be read: {error.strerror}") from error
    except RowFault as fault:
        place = f"{path}:{fault.line}"
        if fault.doubled:
            raise PermanentError("AnswersInvalid", f"{place}: {fault}; remove one row") from fault
        raise PermanentError(
            "AnswersInvalid", f"{place}: {fault.field or 'row'}: {fault.words}; answers.jsonl of evaluate is expected"
        ) from fault
    if not rows:
        raise PermanentError("AnswersInvalid", f"{path} is empty")
    return list(rows.values())


def answers_of_run(run: Run) -> dict[str, list[Answer]]:
    """By model (M0, M1, ...): what each evaluated model of a run file answered, from the run's storage.

    Raises PermanentError `AnswersMissing` if none was evaluated, and what the store raises.
    """
    store = open_store(run.spec.storage)
    graph = build_graph(run.spec, dict(run.pins))
    prepare = read_manifest(store, resolve_keys(graph, None)["prepare"])
    keys = resolve_keys(graph, prepare.contents) if prepare else {}
    return _read(store, keys, run.ref.name)


def answers_of_arms(runs: Mapping[str, Run], model: str | None = None) -> dict[str, list[Answer]]:
    """By `VARIANT:MODEL`: what the last model of each arm of an experiment answered, or the model of this name (M1).

    Raises PermanentError `AnswersMissing` if an arm has none, and what the store raises.
    """
    found = {}
    for variant, run in runs.items():
        name, answers = model or f"M{run.spec.iterations}", answers_of_run(run)
        if name not in answers:
            raise PermanentError(
                "AnswersMissing",
                f"run {run.ref.name} has answers of {', '.join(answers)}, not of {name}; run it to its end",
            )
        found[f"{variant}:{name}"] = answers[name]
    return found


def answers_of_stages(storage: Storage, keys: Mapping[str, str], name: str) -> dict[str, list[Answer]]:
    """The same for a run on a cluster: `keys` are its stages' keys as its status has them."""
    return _read(open_store(storage), keys, name)


def _read(store: Store, keys: Mapping[str, str], name: str) -> dict[str, list[Answer]]:
    found = dict(_models(store, keys))
    if not found:
        raise PermanentError(
            "AnswersMissing", f"run {name}: {store.uri} has no finished evaluation of it; run it, or check --storage"
        )
    return found


def _models(store: Store, keys: Mapping[str, str]) -> Iterator[tuple[str, list[Answer]]]:
    with tempfile.TemporaryDirectory() as scratch:
        for stage, key in keys.items():
            manifest = read_manifest(store, key) if kind_of(stage) == "evaluate" else None
            if manifest is not None:
                path = fetch_output(store, manifest, "answers", Path(scratch) / f"{stage}.jsonl")
                yield f"M{manifest.iteration}", answers_of_file(path)


def fetch_output(store: Store, manifest: Manifest, output: str, path: Path) -> Path:
    """Copy an output of one file to `path`, with its digest checked. Returns the path."""
    file = manifest.outputs[output].files[0]
    store.get_file(file.location, path, file.sha256)
    return path
