"""A run file whose storage has every stage of one round, made by plain functions in place of models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.figures import BY_STAGE
from evolution_jobs.contract.workspace import Result, Workspace
from evolution_operator.local.load import local_run
from evolution_operator.planner.graph import build_graph
from evolution_operator.planner.observed import Run

from tests.support.stages import fake_stages
from tests.support.stages.runner import Runner

METHOD = "played"
HELD_OUT = "held out"
"""Name of a test set."""


def figure(name: str, value: float, **fields: Any) -> dict[str, Any]:
    """A figure as metrics.json has it."""
    kind = BY_STAGE["evaluate"][name]
    known = {"name": name, "value": value, "unit": kind.unit, "better": kind.better, "headline": kind.headline}
    return {**known, "rows": 3, "rowSet": "abc", "method": METHOD, **fields}


def publish_run(wanted: Path | Run, capsys: pytest.CaptureFixture[str], *, until: str | None = None) -> Run:
    """Publish the stages of a run, or of that in a file, in the order of its graph, up to the stage `until`."""
    run, runner, contents = local_run(wanted) if isinstance(wanted, Path) else wanted, Runner(capsys), None
    nodes = build_graph(run.spec, dict(run.pins))
    for node in nodes:
        spec = fake_stages.spec(run.spec.storage, node.id, contents, nodes=nodes)
        code, report = runner(spec, **_STAGES)
        assert code == 0, report
        contents = contents or report.contents
        if node.id == until:
            break
    return run


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _prepare(workspace: Workspace) -> Result:
    names = ("train", "validation", "contexts", "test", "replay", "model")
    for name in names:
        (workspace.scratch / name).write_text(name)
    return Result(outputs={name: workspace.scratch / name for name in names})


def _sft(workspace: Workspace) -> Result:
    return _adapter(workspace, {"curve": [[1, 3.0], [2, 2.5]], "validation": [[2, 2.75]]}, {"validation_loss": 2.75})


def _dpo(workspace: Workspace) -> Result:
    details = {"curve": [[1, 0.69], [2, 0.5]], "margins": [[1, 0.0], [2, 0.25]]}
    return _adapter(workspace, details, {"loss_first": 0.69, "reward_margin": 0.25})


def _adapter(workspace: Workspace, details: Mapping[str, Any], metrics: Mapping[str, float]) -> Result:
    (workspace.scratch / "adapter").write_text(f"weights of {workspace.spec.stage}")
    return Result(outputs={"adapter": workspace.scratch / "adapter"}, details=details, metrics=metrics, tokens=100)


def _generate(workspace: Workspace) -> Result:
    rows = [{"id": f"{number}-1", "text": "So?", "finish": "stop", "tokens": 2} for number in range(3)]
    return Result(outputs={"responses": _write(workspace.scratch / "responses.jsonl", rows)}, counts={"rows": 3})


def _reflect(workspace: Workspace) -> Result:
    turns = [{"role": "seeker", "text": "<b>Hi</b>"}]
    pairs = [
        {"id": f"{number}-1", "turns": turns, "chosen": "=Tell me more.", "rejected": "So?", "source": "self"}
        for number in range(2)
    ]
    return Result(
        outputs={
            "pairs": _write(workspace.scratch / "pairs.jsonl", pairs),
            "rejects": _write(workspace.scratch / "rejects.jsonl", [{"id": "2-1", "reason": "too_long"}]),
        },
        counts={"pairs": 2, "dropped.too_long": 1},
        metrics={"pair_similarity": 12.5},
        intervals={"pair_similarity": [10.0, 15.0]},
    )


def _evaluate(workspace: Workspace) -> Result:
    better = 90.0 + (workspace.spec.iteration or 0)
    figures = [
        figure("distinct2", better, interval=[80.0, 99.0], human=95.0),
        figure("bleu3_ref", 1.0),
        figure("distinct2", 50.0, set=HELD_OUT, interval=[-1.0, 60.0]),
    ]
    answers = [
        {
            **{"id": f"{number}-1", "dialogue": str(number), "context": [{"role": "seeker", "text": "Hi."}]},
            **{"human": "I see.", "answer": f"Hm {number}.", "tokens": 3, "finish": "stop", "truncatedTurns": 0},
            **{"nllTokens": 0},
        }
        for number in range(3)
    ]
    (workspace.scratch / "metrics.json").write_text(json.dumps({"figures": figures}))
    return Result(
        outputs={
            "answers": _write(workspace.scratch / "answers.jsonl", answers),
            "metrics": workspace.scratch / "metrics.json",
            "probes": _write(workspace.scratch / "probes.jsonl", []),
        },
        metrics={"distinct2": better},
        intervals={"distinct2": [80.0, 99.0]},
    )


_STAGES = {
    **{"prepare": _prepare, "sft": _sft, "generate": _generate},
    **{"reflect": _reflect, "dpo": _dpo, "evaluate": _evaluate},
}
