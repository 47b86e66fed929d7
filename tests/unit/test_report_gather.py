"""A report is made from what a run has left: all of it, half of it, or damaged. And a run leaves one behind."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.rows import Answer
from evolution_operator.cli.drive import drive
from evolution_operator.cli.main import app
from evolution_operator.cli.named import open_results
from evolution_operator.local.load import local_run
from evolution_operator.reporting import load_writer
from evolution_operator.reporting.gather import compared, gather, read_rows
from evolution_operator.reporting.publish import keep_report
from evolution_operator.reporting.scores import StoredScores
from evolution_operator.results.find import results_of_status
from rich.console import Console
from typer.testing import CliRunner

from tests.support.report import make_answers, make_status
from tests.unit.test_compare import publish
from tests.unit.test_load import manifest


def test_the_command_makes_a_page_of_a_run_file_that_is_half_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = manifest(tmp_path, iterations=1), tmp_path / "a report.html"
    publish(file, capsys)
    done = CliRunner().invoke(app, ["report", str(file), "-o", str(output)], catch_exceptions=False)
    assert done.exit_code == 0
    assert str(output) in done.stdout
    page = output.read_text()
    assert "The run is not complete: 3 of 7 stages have finished." in page
    assert "M0 answered 40 held-out contexts of 20 dialogues." in page


def test_a_damaged_file_is_named_and_the_rest_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = manifest(tmp_path, iterations=1)
    publish(file, capsys)
    results = open_results(str(file))
    (stored,) = results.artifact("answers-0").output.files
    (tmp_path / "runs" / stored.location).write_text("flipped")
    facts = gather(results)
    assert facts.answers == {}
    assert ["evaluate-0, answers: ObjectCorrupt" in words for words in facts.unread] == [True]
    assert [*facts.manifests] == ["prepare", "sft", "evaluate-0"]


def test_lines_that_are_no_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    (good,) = make_answers(0, 1)
    half = json.dumps(good.wire() | {"id": "half", "answer": "half \ud83d of it"})
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join([json.dumps(good.wire()), "{", half, '{"id": "1"}', ""]))
    rows, bad = read_rows(path, Answer)
    assert [each.id for each in rows] == [good.id, "half"]
    assert rows[1].answer == "half \ufffd of it"
    assert bad.startswith("line 2: ")
    assert bad.endswith(", and 1 more lines; the report leaves them out")


def test_a_line_that_is_nested_too_deeply_is_no_row(tmp_path: Path) -> None:
    (good,) = make_answers(0, 1)
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(["[" * 200_000, json.dumps(good.wire()), ""]))
    rows, bad = read_rows(path, Answer)
    assert [each.id for each in rows] == [good.id]
    assert bad.startswith("line 1: it is nested too deeply")


def test_models_are_compared_or_the_report_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compared({"M0": make_answers(0)}) == ([], "fewer than two models have answers")
    models = {"M0": make_answers(0), "M1": make_answers(1, id="other")}
    hide(monkeypatch, "evolution_jobs.metrics.compare")
    changes, words = compared(models)
    assert changes == []
    assert "is not installed here" in words


def test_differences_are_those_of_compare() -> None:
    pytest.importorskip("sacrebleu")
    pytest.importorskip("nltk")
    changes, words = compared({f"M{number}": make_answers(number) for number in range(3)})
    assert words == ""
    assert {(each.model, each.baseline) for each in changes} == {("M1", "M0"), ("M2", "M0")}
    other = [each.model_copy(update={"human": "other"}) for each in make_answers(1)]
    assert "have different human answers" in compared({"M0": make_answers(0), "M1": other})[1]


def hide(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    """Make a module impossible to import."""
    real = builtins.__import__

    def found(name: str, *arguments: Any, **options: Any) -> Any:
        if name == hidden:
            raise ImportError(f"no {hidden}", name=hidden)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", found)


def test_a_run_keeps_its_report_in_its_storage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = manifest(tmp_path, iterations=1)
    run, _ = publish(file, capsys)
    store = open_results(str(file)).store
    kept = keep_report(results_of_status(store, run.ref, make_status("Failed", stages=[]), run.spec))
    assert kept == (f"{run.spec.storage.uri}/runs/default/first/report.html", None)
    assert (tmp_path / "runs/runs/default/first/report.html").read_text().startswith("<!doctype html>")


def test_a_report_that_fails_leaves_a_line_and_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = manifest(tmp_path, iterations=1)
    results = open_results(str(file))

    def broken(*_: object) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("evolution_operator.reporting.publish.load_writer", lambda: broken)
    assert keep_report(results) == (None, "KeyError: 'oh'")

    def absent() -> None:
        raise PermanentError("DependencyMissing", "a report needs vl_convert: ...")

    monkeypatch.setattr("evolution_operator.reporting.publish.load_writer", absent)
    assert keep_report(results) == (
        None,
        "DependencyMissing: a report needs vl_convert: ...",
    )


def test_what_a_report_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def absent(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "page":
            raise ImportError("no vl_convert", name="vl_convert")
        return known(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(PermanentError, match=r"a report needs vl_convert: pip install '\.\[report\]'"):
        load_writer()


@pytest.mark.parametrize(("phase", "kept"), [("Complete", True), ("Failed", True), ("Suspended", False)])
def test_a_local_run_that_has_ended_leaves_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, kept: bool
) -> None:
    """The stages are played here; tests/local runs real ones."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("evolution_operator.cli.drive.Driver.drive", lambda *_: make_status(phase, stages=[]))
    summary, results = drive(local_run(manifest(tmp_path, iterations=1)), Console(quiet=True))
    assert results.observed
    assert summary.get("reportMissing") is None
    assert ("report" in summary) is kept
    assert (tmp_path / "runs/runs/default/first/report.html").exists() is kept


def test_figures_of_another_version_are_read_as_far_as_they_are_known() -> None:
    known = {"metrics": {"distinct2": 5}, "signatures": [{"name": "new", "odour": "sweet"}], "invented": 1}
    scores = StoredScores.stored(json.dumps(known))
    assert scores.metrics == {"distinct2": 5.0}
    assert [(each.name, each.present) for each in scores.signatures] == [("new", False)]
