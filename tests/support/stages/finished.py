"""A finished run of plain functions, computed once and copied into any storage."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from tempfile import TemporaryDirectory

from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.manifest import Report
from evolution_jobs.contract.stage import StageSpec
from evolution_jobs.runner import run_stage
from evolution_jobs.store.open import open_store
from evolution_operator.results.find import results_of_pointers
from evolution_operator.results.results import Results

from tests.support.stages import fake_stages

ARTIFACTS = {"train", "contexts", "M0", "responses-1", "metrics-0"}
ADAPTER = {"adapter_model.safetensors", "nested/config.json"}
"""Files of its model."""


def finished_run(storage: Storage) -> Results:
    """Put the run `tests/run` (prepare, sft, generate-1, evaluate-0) into an empty storage. Returns its results."""
    store = open_store(storage)
    for location, content in _objects().items():
        store.put_bytes(content, location)
    return results_in(storage)


def results_in(storage: Storage) -> Results:
    """The results of that run as they are now."""
    return results_of_pointers(open_store(storage), "tests", "run")


@cache
def _objects() -> dict[str, bytes]:
    with TemporaryDirectory() as directory, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        storage = Storage(uri=f"file://{directory}/storage")
        contents = _computed(fake_stages.spec(storage, "prepare")).contents
        for stage in ("sft", "generate-1", "evaluate-0"):
            _computed(fake_stages.spec(storage, stage, contents))
        store = open_store(storage)
        return {location: store.read(location) or b"" for location, _ in store.list("")}


def _computed(spec: StageSpec) -> Report:
    with redirect_stdout(io.StringIO()) as printed:
        code = run_stage(spec, fake_stages.stages())
    report = Report.model_validate(json.loads(printed.getvalue().splitlines()[-1]))
    assert code == 0, report
    return report
