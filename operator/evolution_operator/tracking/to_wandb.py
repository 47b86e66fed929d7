"""Weights & Biases, by its library. `WANDB_API_KEY`, `WANDB_PROJECT`, `WANDB_ENTITY` and `WANDB_MODE` count as ever."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import wandb

from .record import Record, TrackedStage

LOGGED = "logged"
"""Entry of the run's summary with the stages that were logged, by id, and their keys, as JSON."""
LOGIN_SECONDS = 10
"""A missing key is an error, not a question on the terminal."""


class WandbTracker:
    """A run of W&B."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self._known: dict[str, str] = json.loads(run.summary.get(LOGGED) or "{}")

    def logged(self) -> Mapping[str, str]:
        """Stages that the run's summary names; none if the run is only on this machine (WANDB_MODE=offline)."""
        return self._known

    def log(self, stage: TrackedStage) -> None:
        """Points that share an axis and a step are one row. Each axis is a metric of its own, because W&B's only grows."""
        rows: dict[tuple[str, int], dict[str, float]] = {}
        for point in stage.points:
            curve = point.metric.startswith(f"{stage.id}/") and stage.id.startswith(("sft", "dpo"))
            axis = f"{stage.id}/step" if curve else "round"
            rows.setdefault((axis, point.step), {})[point.metric] = point.value
        for axis in {axis for axis, _ in rows}:
            self._run.define_metric(axis, hidden=True)
        for (axis, step), row in rows.items():
            for metric in row:
                self._run.define_metric(metric, step_metric=axis)
            self._run.log({**row, axis: step})
        self._known[stage.id] = stage.key
        self._run.summary[LOGGED] = json.dumps(self._known)

    def close(self, record: Record) -> None:
        """Tags as configuration, and the run's state. Waits until all is sent, or kept on this machine."""
        self._run.config.update({"run": dict(record.tags)}, allow_val_change=True)
        self._run.finish(exit_code=1 if record.phase == "Failed" else 0)


def begin(record: Record) -> WandbTracker:
    """Continue the run of this id, or begin it. No output, code, machine or Git state is sent."""
    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        silent=True,
        login_timeout=LOGIN_SECONDS,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
    )
    return WandbTracker(
        wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "evolution",
            id=record.id,
            name=record.name,
            group=os.environ.get("WANDB_RUN_GROUP") or record.group,
            config=dict(record.params),
            resume="allow",
            settings=settings,
        )
    )
