"""MLflow, by its client. `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` say where to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from .record import Record, TrackedStage

ID = "evolution.id"
STAGE = "evolution.stage."
"""Prefix of the tags that name the stages which were logged."""
MOST_METRICS, MOST_OTHERS = 1000, 100
"""What one call may carry (MLflow's REST API)."""
LONGEST = 6000
"""Characters of a parameter; a tag may have 8000."""


class MlflowTracker:
    """A run of MLflow."""

    def __init__(self, client: MlflowClient, run: Any) -> None:
        self._client = client
        self._id: str = run.info.run_id
        self._tags: Mapping[str, str] = run.data.tags

    def logged(self) -> Mapping[str, str]:
        """Stages that the run's tags name."""
        return {name.removeprefix(STAGE): key for name, key in self._tags.items() if name.startswith(STAGE)}

    def log(self, stage: TrackedStage) -> None:
        """Metrics by step, then a tag."""
        now = int(time.time() * 1000)
        metrics = [Metric(point.metric, point.value, now, point.step) for point in stage.points]
        for some in _parts(metrics, MOST_METRICS):
            self._client.log_batch(self._id, metrics=some)
        self._client.set_tag(self._id, f"{STAGE}{stage.id}", stage.key)

    def close(self, record: Record) -> None:
        """Tags, and the run's state."""
        tags = [RunTag(f"evolution.{name}", value[:LONGEST]) for name, value in record.tags.items()]
        for some in _parts(tags, MOST_OTHERS):
            self._client.log_batch(self._id, tags=some)
        state = {"Complete": "FINISHED", "Failed": "FAILED"}.get(record.phase)
        if state:
            self._client.set_terminated(self._id, state)
        else:
            self._client.update_run(self._id, status="RUNNING")


def begin(record: Record) -> MlflowTracker:
    """The run with this id in its tags, or a new one with the settings as parameters."""
    client = MlflowClient()
    experiment = _experiment(client, os.environ.get("MLFLOW_EXPERIMENT_NAME") or "evolution")
    found = client.search_runs([experiment], filter_string=f"tags.`{ID}` = '{record.id}'", max_results=1)
    if found:
        return MlflowTracker(client, found[0])
    run = client.create_run(experiment, run_name=record.name, tags={"evolution.group": record.group})
    params = [Param(name, value[:LONGEST]) for name, value in record.params.items()]
    for some in _parts(params, MOST_OTHERS):
        client.log_batch(run.info.run_id, params=some)
    # Last, so that a run without its parameters is not taken for the run.
    client.set_tag(run.info.run_id, ID, record.id)
    return MlflowTracker(client, run)


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found else str(client.create_experiment(name))


def _parts(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    return (list(items[start : start + size]) for start in range(0, len(items), size))
