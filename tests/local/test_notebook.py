"""examples/notebook runs on the real small model, from its first cell to its last."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.notebooks import copy_examples, executed

pytestmark = [pytest.mark.model, pytest.mark.timeout(3600)]


def test_the_notebook_drives_a_run_and_shows_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = copy_examples(tmp_path, monkeypatch)
    shown = dict(executed(copy, timeout=3000))
    (driven,) = (text for source, text in shown.items() if "finished = run(quickstart)" in source)
    assert "11 stages" in driven
    assert "<h4>default/notebook: Complete</h4>" in driven
    (table,) = (text for source, text in shown.items() if '.pivot(index="label"' in source)
    perplexity = re.search(r"perplexity of the human answer</th>((?:\s*<td>[\d.]+</td>){3})", table)
    assert perplexity is not None
    assert all(5 < float(value) < 100 for value in re.findall(r"[\d.]+(?=</td>)", perplexity[1]))
    report = shown["report(finished)"]
    assert "srcdoc=" in report
    assert "perplexity of the human answer" in report
