"""Reads what models answered: from files, from the store of a run file, or from the store of a run on a cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.rows import Answer
from evolution_jobs.store.base import Store
from evolution_jobs.store.manifests import read_manifest
from evolution_jobs.store.open import open_store
from pydantic import ValidationError

from ..planner.graph import build_graph
from ..planner.observed import Run

EVALUATE = "evaluate-"


def answers_of_file(path: Path) -> list[Answer]:
    """The rows of an `answers.jsonl`. Raises PermanentError `AnswersInvalid`, which names the file and the line."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise PermanentError("AnswersInvalid", f"{path} cannot be read: {error.strerror}") from error
    if not lines:
        raise PermanentError("AnswersInvalid", f"{path} is empty")
    rows: dict[str, Answer] = {}
    for number, line in enumerate(lines, 1):
        row = _answer(line, f"{path}:{number}")
        if row.id in rows:
            raise PermanentError("AnswersInvalid", f"{path}:{number}: context {row.id} occurs twice; remove one row")
        rows[row.id] = row
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
            manifest = read_manifest(store, key) if stage.startswith(EVALUATE) else None
            if manifest is None:
                continue
            file = manifest.outputs["answers"].files[0]
            local = Path(scratch) / f"{stage}.jsonl"
            store.get_file(file.location, local, file.sha256)
            yield f"M{stage.removeprefix(EVALUATE)}", answers_of_file(local)


def _answer(line: bytes, place: str) -> Answer:
    try:
        return Answer.stored(line)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = ".".join(map(str, fault["loc"]))
        raise PermanentError(
            "AnswersInvalid", f"{place}: {field or 'row'}: {fault['msg']}; answers.jsonl of evaluate is expected"
        ) from error
