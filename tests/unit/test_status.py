"""The status as it is written, read and printed: it has no empty values, and leaving them out loses nothing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_operator.api.status import RunStatus
from evolution_operator.cli.cluster import print_status
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.support.stages.fake_processes import raising
from tests.unit.test_driver import Driven


def empty(value: Any, place: str = "status") -> list[str]:
    """Paths of empty values."""
    if isinstance(value, dict):
        inner = [each for name, child in value.items() for each in empty(child, f"{place}.{name}")]
    elif isinstance(value, list):
        inner = [each for n, child in enumerate(value) for each in empty(child, f"{place}[{n}]")]
    else:
        inner = []
    return [place, *inner] if value in ("", None, [], {}) else inner


def lines(value: Any) -> int:
    """Lines that `kubectl describe` gives a document."""
    if isinstance(value, dict):
        return sum(1 + (lines(child) if isinstance(child, dict | list) else 0) for child in value.values())
    return sum(lines(child) if isinstance(child, dict | list) else 1 for child in value)


@pytest.fixture(params=["started", "cached", "failed"])
def status(request: pytest.FixtureRequest, tmp_path: Path) -> RunStatus:
    driven = Driven(tmp_path)
    driven.step()
    if request.param == "cached":
        driven.process("prepare").work()
        driven = Driven(tmp_path, life=2)
    if request.param == "failed":
        driven.process("prepare").work(raising(PermanentError("DataEmpty", "message")))
    return driven.status()


def test_a_written_status_has_no_empty_values_and_reads_back_the_same(status: RunStatus) -> None:
    written = status.wire()
    assert empty(written) == []
    assert RunStatus.model_validate(written) == status
    assert {"phase", "conditions", "stages", "progress"} <= written.keys()
    assert all({"id", "name", "state"} <= stage.keys() for stage in written["stages"])
    assert all({"type", "status", "reason"} <= each.keys() for each in written["conditions"])
    assert lines(written) < 110


def test_a_zero_that_means_something_is_written() -> None:
    stage = {"id": "evaluate-0", "name": "evaluate", "iteration": 0, "state": "Running"}
    progress = {"done": 0, "total": 8, "unit": "rows"}
    document = {"phase": "Running", "champion": 0, "stages": [stage | {"progress": progress}]}
    assert RunStatus.model_validate(document).wire() == document


@given(st.dictionaries(st.sampled_from(["phase", "tomorrow", "stage"]), st.just("Pending"), min_size=1))
def test_unknown_fields_of_a_newer_status_are_ignored(document: dict[str, str]) -> None:
    read = RunStatus.model_validate(document)
    assert read.wire().keys() == {"phase", *document} - {"tomorrow"}


def test_unknown_fields_of_a_stage_are_ignored() -> None:
    stage = {"id": "sft", "name": "sft", "tomorrow": 1, "progress": {"done": 1, "total": 2, "unit": "rows", "more": 1}}
    (read,) = RunStatus.model_validate({"stages": [stage]}).stages
    assert read.progress is not None
    assert read.progress.done == 1


def test_a_status_that_quotes_a_dialogue_is_printed_as_text() -> None:
    said = "the template has [/INST] :smile: \x1b[2J"
    stage = {"id": "sft", "name": "sft", "state": "Failed", "message": said}
    condition = {"type": "Failed", "status": "True", "reason": "ChatTemplate", "message": said}
    condition["lastTransitionTime"] = "2026-05-04T09:00:00Z"
    metrics = [{"iteration": 0, "figures": {"profile [/x]": 1.0}}]
    status = RunStatus.model_validate({"stages": [stage], "conditions": [condition], "metrics": metrics})
    out = io.StringIO()
    print_status(Console(file=out, width=200), "first", None, status)
    printed = out.getvalue()
    assert printed.count("the template has [/INST] :smile: \ufffd[2J") == 2
    assert "M0  profile [/x] 1" in printed
