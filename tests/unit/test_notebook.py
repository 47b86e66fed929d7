"""The example notebook runs from its first cell to its last.

The results of its stages are played here, so `run` finds every stage finished. tests/local lets the real small model make them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evolution_operator.local.load import local_run_of

from tests.support.notebooks import NOTEBOOK, code_cells, copy_examples, executed
from tests.support.stages.finished_run import publish_run


def test_every_cell_shows_what_its_text_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = copy_examples(tmp_path, monkeypatch)
    defined: dict[str, Any] = {}
    for cell in code_cells(copy)[:2]:
        exec(cell.source, defined)
    publish_run(local_run_of(defined["quickstart"], copy.parent), capsys)
    shown = dict(executed(copy, timeout=120))

    def of(code: str) -> str:
        (text,) = (text for source, text in shown.items() if code in source)
        return text

    assert "<h4>default/notebook: Complete</h4>" in of("finished = run(quickstart)")
    assert "Distinct-2, %" in of('.pivot(index="label"')
    assert ">92.0<" in of('.pivot(index="label"')
    assert "dpo-2" in of('curves["measure"] == "loss"')
    assert "=Tell me more." in of("finished.pairs(1)")
    assert "I see." in of("finished.answers(")
    assert (of("plan(changed)").count(">cached<"), of("plan(changed)").count(">to run<")) == (5, 6)
    assert 'sandbox="allow-scripts"' in of("report(finished)")


def test_the_notebook_is_stored_without_outputs() -> None:
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(NOTEBOOK))
