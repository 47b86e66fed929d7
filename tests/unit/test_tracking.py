"""What trackers get of a run, and that a tracker can neither fail nor change it. Trackio is played by a stand-in.

`test_tracker_libraries.py` logs to the real libraries, where they are installed.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import yaml
from evolution_jobs.contract.errors import PermanentError, StageError, TransientError
from evolution_operator.cli import track as cli_track
from evolution_operator.cli.drive import drive
from evolution_operator.cli.main import app
from evolution_operator.cli.named import open_results
from evolution_operator.local.load import local_run
from evolution_operator.results.figures import read_figures
from evolution_operator.results.results import Results
from evolution_operator.tracking import child
from evolution_operator.tracking.record import Record, params_of, record_of
from evolution_operator.tracking.trackers import require
from rich.console import Console
from typer.testing import CliRunner, Result

from tests.support import played_trackio
from tests.support.run_document import run_document
from tests.support.stages.finished_run import HELD_OUT, publish_run
from tests.unit.test_load import manifest


def record(file: Path) -> Record | None:
    results = open_results(str(file))
    return record_of(results, read_figures(results))


def changed(file: Path, **spec: Any) -> Path:
    """The run in the file with other fields. Its data stays as it is."""
    document = yaml.safe_load(file.read_text())
    document["spec"] |= spec
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture
def trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in as an installed library, for this process and those that it starts."""
    modules = ("trackio", "evolution_operator.tracking.to_trackio")
    for name in modules:
        sys.modules.pop(name, None)
    library = tmp_path / "library"
    library.mkdir()
    shutil.copy(played_trackio.__file__, library / "trackio.py")
    monkeypatch.syspath_prepend(library)
    monkeypatch.setenv("PYTHONPATH", str(library), prepend=":")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield
    for name in modules:
        sys.modules.pop(name, None)


def logged() -> dict[str, list[tuple[int, float]]]:
    """By metric: what the stand-in was told, as steps and values."""
    found: dict[str, list[tuple[int, float]]] = {}
    for entry in played_trackio.entries():
        for metric, value in entry.get("values", {}).items():
            found.setdefault(metric, []).append((entry["step"], value))
    return found


def test_a_record_has_curves_figures_and_settings_and_no_text_of_dialogues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = manifest(tmp_path, iterations=1, pod={"nodeSelector": {"a": "b"}}, dpo={"beta": 0.25})
    assert record(file) is None
    publish_run(file, capsys)
    found = record(file)
    assert found is not None
    points = {(point.metric, point.step): point.value for stage in found.stages for point in stage.points}
    assert points["sft/loss", 2] == 2.5
    assert points["sft/validation_loss", 2] == 2.75
    assert points["dpo-1/loss", 1] == 0.69
    assert points["figures/distinct2", 0] == 90
    assert points["figures/distinct2", 1] == 91
    assert points["intervals/distinct2_low", 1] == 80
    assert points[f"figures of {HELD_OUT}/distinct2", 0] == 50
    assert points["reflect counts/dropped.too_long", 1] == 1
    assert points["tokens/dpo", 1] == 100
    assert (found.name, found.group, found.phase, found.ended) == ("first", "default/first", "Complete", True)
    assert found.params["dpo.beta"] == "0.25"
    assert found.params["baseModel.uri"] == "package://model"
    assert not [path for path in found.params if "pod" in path or "storage" in path]
    assert found.tags["champion"] == "M0"
    assert found.tags["artifact.M1"].startswith("dpo-1@")
    text = json.dumps(asdict(found))
    assert not [words for words in ("Tell me more", "So?", "I see.", "Hm 0") if words in text]


def test_a_run_that_goes_on_is_the_same_and_one_with_other_settings_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_run(file := manifest(tmp_path, iterations=1), capsys)
    first = record(file)
    longer = record(changed(file, iterations=3, judge={"url": "http://judge/v1", "model": "large"}))
    other = record(changed(file, dpo={"beta": 0.2}))
    assert first is not None
    assert longer is not None
    assert other is not None
    assert first.id == longer.id != other.id
    assert first.group == other.group


def test_settings_name_no_secret_and_no_password(tmp_path: Path) -> None:
    teacher = {"url": "http://teacher/v1", "model": "large", "apiKeySecret": "key"}
    spec = local_run(manifest(tmp_path, preferenceSource="teacher", teacher=teacher)).spec
    params = params_of(spec)
    assert params["teacher.url"] == "http://teacher/v1"
    assert not [path for path in params if path.endswith("Secret")]


@pytest.mark.usefixtures("trackio")
def test_a_driven_run_is_logged_once_by_a_process_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = manifest(tmp_path, iterations=1, tracking="trackio")
    publish_run(file, capsys)
    assert drive(local_run(file), Console(quiet=True)).summary["phase"] == "Complete"
    assert "0 stages sent" in CliRunner().invoke(app, ["track", str(file)]).stdout
    assert logged()["dpo-1/loss"] == [(1, 0.69), (2, 0.5)]
    assert logged()["figures/distinct2"] == [(0, 90.0), (1, 91.0)]


@pytest.mark.usefixtures("trackio")
def test_a_tracker_that_fails_does_not_fail_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = manifest(tmp_path, iterations=1, tracking="trackio")
    run = publish_run(file, capsys)
    monkeypatch.setenv("PLAYED_TRACKIO_FAILS", "1")
    printed = io.StringIO()
    assert drive(run, Console(file=printed, width=1000)).summary["phase"] == "Complete"
    (line,) = (line for line in printed.getvalue().splitlines() if line.startswith("tracking:"))
    assert "TrackerFailed: trackio: ConnectionError: no route to" in line
    assert "The run is not affected; `evolution track` sends what trackio lacks" in line
    assert "\x1b" not in line


@pytest.mark.usefixtures("trackio")
def test_no_room_for_the_tracker_does_not_fail_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    run = publish_run(manifest(tmp_path, iterations=1, tracking="trackio"), capsys)
    monkeypatch.setattr("evolution_operator.tracking.background._Tracking._start", no_memory)
    printed = io.StringIO()
    assert drive(run, Console(file=printed, width=1000)).summary["phase"] == "Complete"
    assert "tracking: trackio was not told everything: Cannot allocate memory" in printed.getvalue()


def test_a_missing_library_is_told_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("evolution_operator.tracking.trackers.find_spec", lambda name: None)
    with pytest.raises(PermanentError, match=r"pip install '\.\[mlflow\]'"):
        require("mlflow")
    with pytest.raises(PermanentError, match=r"pip install '\.\[wandb\]'"):
        drive(local_run(manifest(tmp_path, tracking="wandb")), Console(quiet=True))
    assert not (tmp_path / "runs").exists()


def test_a_tracker_changes_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish_run(file := manifest(tmp_path, iterations=1), capsys)
    tracked = open_results(str(changed(file, tracking="mlflow")))
    assert tracked.models == ["M0", "M1"]


@pytest.mark.usefixtures("trackio")
def test_the_command_sends_what_the_tracker_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = manifest(tmp_path, iterations=1)

    def track(*arguments: str) -> str:
        found = CliRunner().invoke(app, ["track", str(file), *arguments])
        return found.stdout if found.exit_code == 0 else str(found.exception)

    assert "nothing to send before prepare has finished" in track("--to", "trackio")
    assert "spec.tracking is not set" in track()
    publish_run(file, capsys, until="evaluate-0")
    before = int(track("--to", "trackio").split(": ")[1].split()[0])
    publish_run(file, capsys)
    assert f"{7 - before} stages sent to trackio, 7 in all (Complete)" in track("--to", "trackio", "--follow")
    assert "0 stages sent" in track("--to", "trackio")
    assert logged()["sft/loss"] == [(1, 3.0), (2, 2.5)]


AWAY = TransientError("StorageUnreachable", "no answer from \x1b[31ms3")
ABSENT = PermanentError("ClusterUnreachable", "no answer from the server")


def tracked(monkeypatch: pytest.MonkeyPatch, file: Path, looks: Iterator[StageError | None], *more: str) -> Result:
    """`evolution track FILE`, where a look at the run raises the next of `looks`, or finds the run at None."""

    def look(*arguments: Any, **options: Any) -> Results:
        if (error := next(looks)) is not None:
            raise error
        return open_results(*arguments, **options)

    monkeypatch.setattr(cli_track, "open_results", look)
    monkeypatch.setattr(cli_track, "POLL_SECONDS", 0)
    return CliRunner().invoke(app, ["track", str(file), "--to", "trackio", *more])


@pytest.mark.usefixtures("trackio")
def test_a_run_is_followed_across_errors_that_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_run(file := manifest(tmp_path, iterations=1), capsys)
    found = tracked(monkeypatch, file, iter([AWAY, ABSENT, None]), "--follow")
    assert found.exit_code == 0, found.exception
    first, second, sent = found.stdout.splitlines()
    assert first == "StorageUnreachable: no answer from \ufffd[31ms3 (1 of 10 in a row)"
    assert second == "ClusterUnreachable: no answer from the server (2 of 10 in a row)"
    assert "stages sent to trackio, 7 in all (Complete)" in sent


@pytest.mark.parametrize(
    ("looks", "more", "said"),
    [
        (repeat(AWAY), ["--follow"], 9),
        (iter([AWAY, PermanentError("ClusterRefused", "not allowed")]), ["--follow"], 1),
        (iter([AWAY]), [], 0),
    ],
)
def test_an_error_that_stays_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: Iterator[StageError], more: list[str], said: int
) -> None:
    found = tracked(monkeypatch, manifest(tmp_path, iterations=1), looks, *more)
    assert isinstance(found.exception, StageError)
    assert len(found.stdout.splitlines()) == said


def test_only_errors_in_a_row_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [*[AWAY] * 9, None, *[AWAY] * 9, PermanentError("ClusterRefused", "not allowed")]
    found = tracked(monkeypatch, manifest(tmp_path, iterations=1), iter(looks), "--follow")
    assert "(9 of 10 in a row)" in found.stdout.splitlines()[-1]
    assert str(found.exception) == "not allowed"


def test_a_run_of_which_only_the_storage_is_known_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_run(file := manifest(tmp_path, iterations=1), capsys)
    results = open_results(str(file))
    object.__setattr__(results, "status", None)
    with pytest.raises(PermanentError, match="only the storage of first is known"):
        record_of(results, [])


def test_the_process_tries_again_at_the_end_of_its_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = publish_run(file := manifest(tmp_path, iterations=1), capsys)
    status = open_results(str(file)).status
    assert status is not None
    snapshot = tmp_path / "snapshot.json"
    snapshot.write_text(child.Snapshot(run=run.ref, spec=run.spec, status=status).model_dump_json(by_alias=True))
    calls: list[Any] = []

    def send(name: str, record: Record, sent: dict[str, str]) -> int:
        calls.append(len(sent))
        if len(calls) == 1:
            raise PermanentError("TrackerFailed", "down")
        return 8

    monkeypatch.setattr(child, "send", send)
    assert child.main("trackio", snapshot, io.BytesIO(b"++")) == 0
    assert child.main("trackio", snapshot, io.BytesIO(b"+")) == 0
    assert calls == [0, 0, 0]
    assert "error: TrackerFailed: down" in capsys.readouterr().err


def test_a_run_file_may_name_a_tracker() -> None:
    from evolution_operator.api.validation import faults

    document = run_document()
    document["spec"]["tracking"] = "tensorboard"
    (fault,) = faults(document)
    assert str(fault) == "spec.tracking: must be 'mlflow', 'wandb' or 'trackio', not 'tensorboard'"
