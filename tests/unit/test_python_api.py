"""The Python API: a run built, driven and read from Python. Stages and the API server are played; see tests/local and tests/api."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import evolution_operator
import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_operator import (
    DpoStage,
    EvolutionRun,
    EvolutionRunSpec,
    apply,
    figures,
    load,
    open_run,
    plan,
    report,
    run,
    save,
    watch,
)
from evolution_operator.api.experiment import merged
from evolution_operator.api.validation import RunFileError
from evolution_operator.cli.drive import Driven
from evolution_operator.cli.kube import ApiError
from evolution_operator.interactive.inline import ReportPage, summary_html
from evolution_operator.interactive.remote import ClusterRun, merge_patch
from evolution_operator.local.load import local_run_of
from pydantic import ValidationError

from tests.support.run_document import minimal_spec
from tests.support.stages.finished_run import publish_run
from tests.unit.test_load import manifest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a seed file."""
    (tmp_path / "seed.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def built(**spec: Any) -> EvolutionRun:
    least = minimal_spec(model_uri="package://model", storage_uri="file://runs", seed_uri="file://seed.jsonl")
    return EvolutionRun(metadata={"name": "first"}, spec={**least, "iterations": 1, **spec})


def test_every_name_is_there_and_importing_the_package_imports_nothing_heavy() -> None:
    for name in evolution_operator.__all__:
        assert getattr(evolution_operator, name) is not None
    assert set(evolution_operator.__all__) <= set(dir(evolution_operator))
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        _ = evolution_operator.rum
    code = (
        "import sys, evolution_operator; print([m for m in ('pydantic', 'rich', 'typer', 'boto3') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_no_name_is_a_module_that_would_take_its_place() -> None:
    modules = {module.name for module in iter_modules(evolution_operator.__path__)}
    assert not modules & set(evolution_operator.__all__)


def test_parameters_have_their_python_names() -> None:
    assert "learning_rate" in inspect.signature(DpoStage).parameters
    assert inspect.signature(EvolutionRunSpec).parameters["base_model"].default is inspect.Parameter.empty


def test_typed_objects_and_plain_values_make_the_same_run() -> None:
    plain = built(dpo={"learningRate": 1e-5})
    assert built(dpo=DpoStage(learning_rate=1e-5)) == plain
    assert built(dpo={"learning_rate": 1e-5}) == plain
    assert (plain.api_version, plain.kind) == ("evolution.run/v1alpha1", "EvolutionRun")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"dpo": {"betta": 1}}, r"spec\.dpo\.betta\n  Extra inputs are not permitted"),
        ({"dpo": {"beta": -1}}, r"spec\.dpo\.beta\n  Input should be greater than 0"),
        ({"preferenceSource": "teacher"}, r"teacher: must be set if the teacher is a preference source"),
    ],
)
def test_a_wrong_field_is_named(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        built(**spec)


def test_a_run_is_saved_as_it_was_written_and_loaded_from_anywhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(built(dpo=DpoStage(beta=0.2)), "first.yaml")
    assert "learningRate" not in path.read_text()
    monkeypatch.chdir("/")
    loaded = load(here / "first.yaml")
    assert loaded.spec.dpo.beta == 0.2
    assert loaded.spec.storage.uri == f"file://{here}/runs"
    assert loaded.spec.data.seed[0].uri == f"file://{here}/seed.jsonl"
    # YAML 1.2 takes this commit for a number, unless it is in quotes.
    model = {"uri": "hf://owner/name", "revision": "72225e2"}
    assert load(save(built(baseModel=model), here / "pinned.yaml")).spec.base_model.revision == "72225e2"
    (here / "first.yaml").write_text("kind: EvolutionRun\n")
    with pytest.raises(RunFileError, match="apiVersion: is required"):
        load(here / "first.yaml")


def test_a_run_is_driven_to_its_end_and_read(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stages are finished already, so the driver starts no process."""
    publish_run(local_run_of(built(), here), capsys)
    found = run(built())
    printed = capsys.readouterr().out
    assert "default/first: artifacts in" in printed
    assert (found.phase, found.message, found.champion, found.models) == ("Complete", None, "M0", ["M0", "M1"])
    assert repr(found) == "RunResults(default/first, Complete, models ['M0', 'M1'], champion M0)"
    assert "<th>M0 *</th><th>M1</th>" in found._repr_html_()
    assert run(save(built(), "first.yaml"), progress=False).phase == "Complete"
    assert capsys.readouterr().out == ""
    assert open_run(here / "first.yaml").models == ["M0", "M1"]


def test_tables_have_figures_curves_stages_and_rows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_module("pandas")
    publish_run(local_run_of(built(), here), capsys)
    found = open_run(built())
    table = figures(found)
    values = table[table["set"].isna()].pivot(index="figure", columns="model", values="value")
    assert values.loc["distinct2"].to_dict() == {"M0": 90.0, "M1": 91.0}
    assert table["rows"].isna().sum() == 1
    curve = found.curves
    assert curve[(curve["stage"] == "dpo-1") & (curve["measure"] == "loss")]["value"].tolist() == [0.69, 0.5]
    assert set(curve["measure"]) == {"loss", "validation_loss", "reward_margin"}
    assert found.stages.set_index("stage").loc["dpo-1", ["state", "kind", "tokens"]].to_list() == [
        *("Succeeded", "dpo", 100),
    ]
    changed = plan(built(dpo={"beta": 0.2})).set_index("stage")["state"]
    assert changed["reflect-1"] == "cached"
    assert changed["dpo-1"] == "to run"
    assert found.pairs(1)["chosen"].tolist() == ["=Tell me more."] * 2
    assert found.rejects(1)["reason"].tolist() == ["too_long"]
    assert found.answers("M1")["answer"].tolist() == found.answers(1)["answer"].tolist() == ["Hm 0.", "Hm 1.", "Hm 2."]
    # A notebook shows the text of dialogues as text.
    assert "&lt;b&gt;Hi" in found.pairs(1)._repr_html_()
    with pytest.raises(PermanentError, match="M1 has no rows") as error:
        found.rows("M1")
    assert error.value.reason == "NotRows"
    with pytest.raises(PermanentError, match="pairs-2 is not there"):
        found.pairs(2)


def test_a_run_that_has_not_begun_has_empty_tables(here: Path) -> None:
    import_module("pandas")
    found = open_run(built())
    assert (found.phase, found.champion, found.models) == ("Running", None, [])
    assert found.figures.empty
    assert found.curves.empty
    assert "first: Running" in found._repr_html_()


def test_without_pandas_a_table_says_what_to_install(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(PermanentError, match=r"pip install '\.\[notebook\]'"):
        figures(built())


def test_an_interruption_says_how_to_go_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evolution_operator.local.driver.Driver.step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(built())
    assert "finished work is kept" in capsys.readouterr().out


def test_a_failure_is_returned_and_told(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = {"id": "sft", "state": "Failed", "reason": "DiskFull", "message": "no room"}
    summary = {"phase": "Failed", "message": "stage sft failed", "stoppedEarly": None, "stages": [stage]}
    results = open_run(built()).results
    monkeypatch.setattr("evolution_operator.interactive.local.drive", lambda *_: Driven(summary, results))
    found = run(built())
    assert (found.phase, found.message) == ("Failed", "stage sft failed")
    assert "stage sft: DiskFull: no room" in capsys.readouterr().out


def test_the_report_is_shown_in_a_frame_that_cannot_reach_the_notebook(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page itself is played here."""
    page = import_module("evolution_operator.reporting.page")
    monkeypatch.setattr(page, "write_report", lambda found, path: path.write_text('<p class="a">5 < 6</p>'))
    shown = report(built())
    frame = 'srcdoc="&lt;p class=&quot;a&quot;&gt;5 &lt; 6&lt;/p&gt;" sandbox="allow-scripts"'
    assert frame in shown._repr_html_()
    kept = report(built(), "report.html")
    assert kept.path == here / "report.html"
    assert kept.html == shown.html == (here / "report.html").read_text()
    assert "too large" in ReportPage(" " * (17 << 20))._repr_html_()


def test_a_summary_shows_text_as_text() -> None:
    assert "<b>" not in summary_html("<b>", ["<b>"], [], None)


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1, "b": 2}, {"b": 3}, {"a": None, "b": 3}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}, {"a": {"b": None}}),
        ({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
        ({}, {"a": {"b": {}}}, {"a": {"b": {}}}),
    ],
)
def test_a_merge_patch_makes_one_document_of_another(before: Any, after: Any, patch: Any) -> None:
    assert merge_patch(before, after) == patch
    assert merged(before, patch) == after


class PlayedCluster:
    """An API server for one run, as `Cluster` asks it; tests/api asks a real one."""

    objects: dict[str, dict[str, Any]] = {}
    refuses: int | None = None

    def __init__(self, namespace: str | None) -> None:
        self.namespace = namespace or "context"

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.refuses:
            raise ApiError(self.refuses, "spec.iterations: Invalid value")
        place = f"{path}/{body['metadata']['name']}"
        if place in self.objects:
            raise ApiError(409, "already exists")
        body["metadata"]["generation"] = 1
        self.objects[place] = body
        return body

    def get(self, path: str) -> dict[str, Any]:
        return json.loads(json.dumps(self.objects[path]))

    def patch(self, path: str, patch: dict[str, Any]) -> dict[str, Any]:
        before = self.objects[path]
        after = merged(before, patch)
        after["metadata"]["generation"] += after != before
        self.objects[path] = after
        return after


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> type[PlayedCluster]:
    monkeypatch.setattr(PlayedCluster, "objects", {})
    monkeypatch.setattr("evolution_operator.interactive.remote.Cluster", PlayedCluster)
    return PlayedCluster


def test_a_run_is_created_then_changed(cluster: type[PlayedCluster], tmp_path: Path) -> None:
    assert apply(built(dpo={"beta": 0.2})) == ClusterRun("context", "first", "created")
    assert apply(built(dpo={"beta": 0.2})).change == "unchanged"
    assert apply(built(iterations=3)).change == "configured"
    (kept,) = cluster.objects.values()
    assert "dpo" not in kept["spec"]
    assert kept["spec"]["iterations"] == 3
    named = EvolutionRun(metadata={"name": "first", "namespace": "lab"}, spec=built().spec)
    assert apply(named).namespace == "lab"
    assert apply(named, namespace="other").namespace == "other"
    assert apply(manifest(tmp_path)).namespace == "context"


@pytest.mark.parametrize(
    ("status", "words"), [(422, "answered 422: spec.iterations"), (403, "not allowed"), (404, "install the operator")]
)
def test_what_the_api_server_refuses_is_told(
    cluster: type[PlayedCluster], monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    monkeypatch.setattr(cluster, "refuses", status)
    with pytest.raises(PermanentError, match=words) as error:
        apply(built())
    assert error.value.reason == "ClusterRefused"


def test_a_run_is_watched_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    unreachable = PermanentError("ClusterUnreachable", "no answer")
    answers: list[Any] = [{}, {"phase": "Running"}, unreachable, {"phase": "Running"}, {"phase": "Complete"}, {}]

    def fetch(name: str, namespace: str | None) -> dict[str, Any]:
        assert (name, namespace) == ("first", "lab")
        answer = answers.pop(0)
        if isinstance(answer, PermanentError):
            raise answer
        return {"status": answer}

    monkeypatch.setattr("evolution_operator.interactive.remote.fetch", fetch)
    seen = [status.phase for status in watch(ClusterRun("lab", "first", "created"), interval=0)]
    assert seen == ["Pending", "Running", "Complete"]
    assert answers == [{}]


def test_a_cluster_that_stays_away_ends_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object) -> dict[str, Any]:
        raise PermanentError("ClusterUnreachable", "no answer")

    monkeypatch.setattr("evolution_operator.interactive.remote.fetch", fetch)
    with pytest.raises(PermanentError, match="no answer"):
        list(watch("first", interval=0))


def test_a_run_file_is_watched_by_its_finished_stages(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish_run(local_run_of(built(), here), capsys)
    (last,) = watch(save(built(), "first.yaml"), interval=0)
    assert (last.phase, last.champion) == ("Complete", 0)
