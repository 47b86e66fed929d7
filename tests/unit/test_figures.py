"""Every figure of a run as rows, and what `evolution figures` prints of them."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.manifest import Manifest
from evolution_jobs.contract.stage import RunRef
from evolution_jobs.store.file import FileStore
from evolution_operator.cli.figures import print_figures
from evolution_operator.cli.main import app
from evolution_operator.cli.named import open_results
from evolution_operator.reporting.gather import gather
from evolution_operator.results.figures import COLUMNS, figures_as_csv, read_figures, rows_of
from evolution_operator.results.results import Results
from rich.console import Console
from typer.testing import CliRunner

from tests.support.stages.finished_run import HELD_OUT, METHOD, publish_run
from tests.unit.test_load import manifest


def stage(kind: str, iteration: int, **fields: Any) -> Manifest:
    return Manifest(
        key="0" * 64,
        kind=kind,
        stage=f"{kind}-{iteration}",
        iteration=iteration,
        run=RunRef(namespace="default", name="first", uid="u"),
        attempt="a",
        outputs=fields.pop("outputs", {}),
        settings={},
        seed=1,
        code={},
        seconds=1.0,
        **fields,
    )


def figure(**fields: Any) -> dict[str, Any]:
    known = {"name": "distinct2", "value": 90.0, "unit": "percent", "better": "higher"}
    return {**known, "rows": 10, "rowSet": "abc", "method": "ours", **fields}


def test_a_run_has_every_figure_of_every_model_with_its_provenance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = manifest(tmp_path, iterations=1)
    assert CliRunner().invoke(app, ["figures", str(file)]).stdout == "no model has figures yet\n"
    publish_run(file, capsys)
    rows = read_figures(open_results(str(file)))
    assert [(row.model, row.figure, row.set) for row in rows] == [
        *(("M0", "distinct2", None), ("M0", "bleu3_ref", None), ("M0", "distinct2", HELD_OUT)),
        *(("M1", "distinct2", None), ("M1", "bleu3_ref", None), ("M1", "pair_similarity", None)),
        ("M1", "distinct2", HELD_OUT),
    ]
    first = rows[0]
    assert (first.value, first.low, first.high, first.human) == (90, 80, 99, 95)
    assert (first.stage, first.rows, first.row_set, first.method) == ("evaluate-0", 3, "abc", METHOD)

    listed = json.loads(CliRunner().invoke(app, ["figures", str(file), "-o", "json"]).stdout)
    assert [(each["stage"], each["figure"]) for each in listed] == [(row.stage, row.figure) for row in rows]
    assert "low" not in listed[1]
    table = list(csv.DictReader(io.StringIO(CliRunner().invoke(app, ["figures", str(file), "-o", "csv"]).stdout)))
    assert tuple(table[0]) == COLUMNS
    assert [float(each["value"]) for each in table] == [row.value for row in rows]


def test_the_table_has_a_column_for_each_model_and_one_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = manifest(tmp_path, iterations=1)
    publish_run(file, capsys)
    lines = CliRunner().invoke(app, ["figures", str(file)]).stdout.splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells[0] == ["Distinct-2, %", "90.00 (80.00 to 99.00)", "91.00 (80.00 to 99.00)", "95.00"]
    assert cells[2] == ["likeness of chosen and rejected, %", "", "12.50 (10.00 to 15.00)", ""]
    assert f"test set {HELD_OUT}" in [line.strip() for line in lines]


def test_what_reflect_and_dpo_find_out_is_there_and_what_is_about_training_is_not() -> None:
    made = stage(
        "dpo", 2, metrics={"loss_first": 0.69, "heldout_margin": 0.5}, intervals={"heldout_margin": [0.1, 0.9]}
    )
    (row,) = rows_of(made, {})
    assert (row.model, row.figure, row.value, row.low, row.high) == ("M2", "heldout_margin", 0.5, 0.1, 0.9)
    assert (row.rows, row.row_set, row.method) == (None, None, None)


def test_csv_guards_text_and_keeps_negative_numbers() -> None:
    rows = list(rows_of(stage("evaluate", 0), {"figures": [figure(value=-1.5, set="=1+1", method="@x\x1b[31m")]}))
    (cells,) = csv.DictReader(io.StringIO(figures_as_csv(rows)))
    assert (cells["value"], cells["set"]) == ("-1.5", "'=1+1")
    assert cells["method"].startswith("'@x")
    assert "\x1b" not in cells["method"]
    assert cells["low"] == ""


def test_a_foreign_figure_cannot_write_to_the_terminal() -> None:
    made = stage("evaluate", 0).model_copy(update={"stage": "evaluate-0\x1b[2J"})
    (row,) = rows_of(made, {"figures": [figure(name="mine\x1b[2J [/INST] :smile:", set="[bold]theirs")]})
    assert (row.figure, row.label, row.stage) == (
        *["mine\ufffd[2J [/INST] :smile:"] * 2,
        "evaluate-0\ufffd[2J",
    )
    out = io.StringIO()
    print_figures(Console(file=out, width=120), [row])
    assert "mine\ufffd[2J [/INST] :smile:" in out.getvalue()
    assert "test set [bold]theirs" in out.getvalue()


def test_a_document_that_is_no_list_of_figures_is_named(tmp_path: Path) -> None:
    digest = "1" * 64
    file = {"path": "metrics.json", "location": "stages/0/metrics.json", "sha256": digest, "size": 2}
    made = stage("evaluate", 0, outputs={"metrics": {"digest": digest, "files": [file]}})
    with pytest.raises(PermanentError, match=r"stage evaluate-0: stages/0/metrics.json cannot be read") as error:
        list(rows_of(made, {"figures": [{"name": "distinct2"}]}))
    assert error.value.reason == "FiguresUnreadable"


def test_the_name_of_a_stage_leads_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes into the bucket names the stage in its manifest."""
    file = manifest(tmp_path, iterations=1)
    publish_run(file, capsys)
    results = open_results(str(file))
    hostile = {id_: each.model_copy(update={"stage": "../../escaped"}) for id_, each in results.manifests.items()}
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    read_figures(replace(results, manifests=hostile))
    gather(replace(results, manifests=hostile))
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("content", ["{", "[" * 200_000])
def test_a_document_that_is_no_json_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    path, digest = tmp_path / "metrics.json", "1" * 64
    path.write_text(content)
    file = {"path": path.name, "location": "stages/0/metrics.json", "sha256": digest, "size": 2}
    made = stage("evaluate", 0, outputs={"metrics": {"digest": digest, "files": [file]}})
    monkeypatch.setattr(Results, "fetch", lambda *_: [path])
    with pytest.raises(PermanentError, match=r"stages/0/metrics.json cannot be read \(it is no JSON\)"):
        read_figures(Results("lab", "first", FileStore(tmp_path), {"evaluate-0": made}))
