"""The closing page of a run, and the lines printed before it."""

from __future__ import annotations

import io
from pathlib import Path

from evolution_jobs.contract.errors import PermanentError
from evolution_operator.api.status import RunStatus, StageStatus
from evolution_operator.cli.closing import print_closing
from evolution_operator.cli.display import Display
from evolution_operator.results.find import results_of_status
from evolution_operator.results.results import Results
from evolution_operator.results.summary import summarise
from rich.console import Console

from tests.support.stages.fake_processes import raising
from tests.unit.test_driver import Driven

WHY = "data.seed: nothing is left of 12 dialogues; take longer ones"


def failed(directory: Path) -> tuple[str, str, dict[str, object]]:
    """The lines printed during a run that fails in prepare, its closing page and its summary."""
    driven, printed, closing = Driven(directory), io.StringIO(), io.StringIO()
    with Display(Console(file=printed, width=10_000)) as display:
        driven.driver.step(display.watch)
        driven.process("prepare").work(raising(PermanentError("DataEmpty", WHY)))
        status = driven.driver.step(display.watch)
    summary = summarise(driven.run, status, results_of_status(driven.store, driven.run.ref, status), 12.0)
    print_closing(Console(file=closing, width=10_000), summary, Path("run.yaml"))
    return printed.getvalue(), closing.getvalue(), summary


def test_a_failure_is_shown_in_full_once_at_the_end(tmp_path: Path) -> None:
    printed, closing, _ = failed(tmp_path)
    assert (printed + closing).count(WHY) == 1
    assert closing.splitlines()[-1] == f"stage prepare: DataEmpty: {WHY}"
    assert [line.split(maxsplit=2)[2] for line in printed.splitlines()[-2:]] == [
        "StageFailed     prepare: DataEmpty",
        "Failed          StageFailed; 0/7 stages finished",
    ]


def test_a_manifest_that_is_gone_bad_by_the_end_is_a_note_of_its_stage(tmp_path: Path) -> None:
    driven = Driven(tmp_path)
    status = RunStatus(phase="Complete", stages=[StageStatus(id="prepare", name="prepare", state="Succeeded")])
    results = Results("default", "first", driven.store, {}, faults={"prepare": "CorruptManifest: no JSON"})
    summary = summarise(driven.run, status, results, 12.0)
    assert summary["stages"][0]["notes"] == ["CorruptManifest: no JSON"]


def test_the_summary_has_the_whole_message(tmp_path: Path) -> None:
    _, _, summary = failed(tmp_path)
    assert summary["message"] == f"stage prepare: DataEmpty: {WHY}"
    assert isinstance(summary["stages"], list)
    assert (summary["stages"][0]["reason"], summary["stages"][0]["message"]) == ("DataEmpty", WHY)


def test_the_notes_of_a_stage_are_on_the_closing_page() -> None:
    page = io.StringIO()
    stage = {
        "id": "prepare",
        "state": "Succeeded",
        "cached": True,
        "counts": {},
        "notes": ["it is [26 Jul] in every stage"],
    }
    summary = {
        "phase": "Complete",
        "message": None,
        "stages": [stage],
        "metrics": [],
        "stoppedEarly": None,
        "ineligible": [],
        "artifacts": {},
    }
    seconds = {"seconds": 10, "stageSeconds": 9, "overheadSeconds": 1}
    print_closing(Console(file=page, width=10_000), summary | seconds, Path("run.yaml"))
    assert "prepare: it is [26 Jul] in every stage" in page.getvalue().splitlines()


def test_figures_of_profiles_are_in_the_table_under_the_run_s_own_names() -> None:
    page = io.StringIO()
    metrics = [
        {"iteration": 0, "distinct1": 9.0, "kl_m0": 0.0},
        {"iteration": 1, "profile_life_stage_macro_f1": 41.5, "kl_m0": 0.0004},
    ]
    summary = {"phase": "Failed", "message": None, "stages": [], "metrics": metrics, "champion": 0, "artifacts": {}}
    summary |= {"stoppedEarly": None, "ineligible": [], "championRule": "best", "championMetric": "distinct2"}
    seconds = {"seconds": 10, "stageSeconds": 9, "overheadSeconds": 1}
    print_closing(Console(file=page, width=200), summary | seconds, Path("run.yaml"))
    lines = page.getvalue().splitlines()
    (divergence,) = [line for line in lines if "divergence" in line]
    assert [cell.strip() for cell in divergence.split("│")[2:4]] == ["0.0000", "0.0004"]
    (row,) = [line for line in lines if "profile" in line]
    assert "profile, life stage: macro-F1, %" in row
    assert "41.50" in row


def test_every_failed_stage_is_on_the_closing_page() -> None:
    stages = [
        {
            "id": f"evaluate-{n}",
            "state": "Failed",
            "reason": "TestSet",
            "message": f"message {n}",
            "cached": False,
            "notes": [],
        }
        for n in range(2)
    ]
    page = io.StringIO()
    summary = {
        "phase": "Failed",
        "message": "stage evaluate-0: ...",
        "stages": stages,
        "metrics": [],
        "stoppedEarly": None,
        "ineligible": [],
        "artifacts": {},
    }
    seconds = {"seconds": 10, "stageSeconds": 9, "overheadSeconds": 1}
    print_closing(Console(file=page, width=10_000), summary | seconds, Path("run.yaml"))
    assert page.getvalue().splitlines()[-2:] == [f"stage evaluate-{n}: TestSet: message {n}" for n in range(2)]


def test_a_run_that_failed_as_a_whole_says_so() -> None:
    page = io.StringIO()
    summary = {
        "phase": "Failed",
        "message": "not finished 5 s after it started",
        "stages": [],
        "metrics": [],
        "stoppedEarly": None,
        "ineligible": [],
    }
    seconds = {"artifacts": {}, "seconds": 10, "stageSeconds": 9, "overheadSeconds": 1}
    print_closing(Console(file=page, width=10_000), summary | seconds, Path("run.yaml"))
    assert page.getvalue().splitlines()[-1] == "not finished 5 s after it started"


def test_the_closing_page_says_how_to_get_and_try_what_was_made() -> None:
    names = ["M0", "pairs-1", "M1", "answers-0", "answers-1"]
    summary = {"phase": "Suspended", "message": None, "stages": [], "metrics": [], "champion": None, "ineligible": []}
    summary |= {"stoppedEarly": None, "artifacts": {name: f"s3://bucket/{name}" for name in names}}
    summary |= {"seconds": 10, "stageSeconds": 9, "overheadSeconds": 1}

    def shown(**changed: object) -> list[str]:
        page = io.StringIO()
        print_closing(Console(file=page, width=10_000), summary | changed, Path("my run.yaml"), "there")
        return [line.strip() for line in page.getvalue().splitlines() if line.startswith("  ")]

    run = "'my run.yaml' --storage there"
    assert shown() == [
        f"evolution get {run} M0 M1",
        f"evolution get {run} pairs-1",
        f"evolution get {run} answers-0 answers-1",
        f"evolution chat {run} --model M1",
        f"evolution report {run}",
    ]
    assert f"evolution chat {run} --model M0" in shown(champion=0)


def test_the_closing_page_says_where_the_report_is_or_why_there_is_none() -> None:
    summary: dict[str, object] = {
        "phase": "Complete",
        "message": None,
        "stages": [],
        "metrics": [],
        "stoppedEarly": None,
    }
    summary |= {"ineligible": [], "artifacts": {}, "seconds": 10, "stageSeconds": 9, "overheadSeconds": 1}
    for more, words in (
        ({"report": "file:///runs/report.html", "reportMissing": None}, "report      file:///runs/report.html"),
        ({"report": None, "reportMissing": "DependencyMissing: a report needs jinja2"}, "No report: DependencyMissing: a report needs jinja2"),
    ):  # fmt: skip
        page = io.StringIO()
        print_closing(Console(file=page, width=10_000), summary | more, Path("run.yaml"))
        assert words in page.getvalue()
