"""The real libraries of trackers, each where it is installed: no pinned environment has one, because trl would import it.

They log to this machine alone: MLflow to files, W&B offline, Trackio to its own directory.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from evolution_operator.tracking.record import Point, Record, TrackedStage
from evolution_operator.tracking.trackers import send

SFT = TrackedStage("sft", "b" * 64, [Point("sft/loss", 1, 3.0), Point("sft/loss", 2, 2.5)])
EVALUATED = [
    TrackedStage(f"evaluate-{number}", f"{number}" * 64, [Point("figures/distinct2", number, 90.0 + number)])
    for number in range(2)
]
RUN = Record(
    id="0123456789abcdef",
    name="first",
    group="default/first",
    phase="Running",
    params={"dpo.beta": "0.1", "data.seed": "[]"},
    tags={"run": "default/first"},
    stages=[SFT, EVALUATED[0]],
)
ENDED = replace(RUN, phase="Complete", tags={**RUN.tags, "champion": "M1"}, stages=[SFT, *EVALUATED])


def test_mlflow_has_each_point_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    assert [send("mlflow", RUN), send("mlflow", RUN), send("mlflow", ENDED)] == [2, 0, 1]
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("evolution").experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params == RUN.params
    assert run.data.tags["evolution.champion"] == "M1"
    history = client.get_metric_history(run.info.run_id, "figures/distinct2")
    assert [(point.step, point.value) for point in history] == [(0, 90.0), (1, 91.0)]
    assert len(client.get_metric_history(run.info.run_id, "sft/loss")) == 2


def test_trackio_has_each_point_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    assert [send("trackio", RUN), send("trackio", RUN), send("trackio", ENDED)] == [2, 0, 1]
    rows = SQLiteStorage.get_logs("evolution", "first-01234567")
    values = [(row["step"], row["figures/distinct2"]) for row in rows if "figures/distinct2" in row]
    assert values == [(0, 90.0), (1, 91.0)]
    assert [row["step"] for row in rows if "sft/loss" in row] == [1, 2]


def test_wandb_keeps_the_run_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert send("wandb", RUN) == 2
    # Offline, only this process knows what it has sent.
    assert send("wandb", ENDED, {stage.id: stage.key for stage in RUN.stages}) == 1
    kept = list(tmp_path.glob("wandb/offline-run-*/run-0123456789abcdef.wandb"))
    assert len(kept) == 2
    content = b"".join(file.read_bytes() for file in kept)
    assert b"figures/distinct2" in content
    assert b"sft/loss" in content
