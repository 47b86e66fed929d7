"""A run file's run with its first stages in its storage, and made-up answers. Nothing of it needs torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.rows import Answer, Turn
from evolution_jobs.contract.workspace import Result, Workspace
from evolution_operator.local.load import local_run
from evolution_operator.planner.graph import build_graph
from evolution_operator.planner.observed import Run

from tests.support.stages import fake_stages
from tests.support.stages.runner import Runner
from tests.support.vocabulary import VOCABULARY


def answers(seed: int, words: int = 12, dialogues: int = 20, stock: bool = False) -> list[Answer]:
    """Two contexts a dialogue. The human answers are the same for every seed."""
    humans, own = np.random.default_rng(0), np.random.default_rng(seed)
    rows = []
    for number in range(2 * dialogues):
        human, said = (" ".join(drawn.choice(VOCABULARY, words)) for drawn in (humans, own))
        rows.append(
            Answer(
                id=f"{number // 2}-{number % 2}",
                dialogue=str(number // 2),
                context=[Turn(role="seeker", text="Hi.")],
                human=human,
                answer=f"It sounds like {said}" if stock else said,
                tokens=words + 1,
                finish="stop",
                truncated_turns=0,
                nll=float(own.uniform(20, 30)),
                nll_tokens=10,
            )
        )
    return rows


def write(path: Path, rows: list[Answer]) -> Path:
    path.write_text("".join(json.dumps(row.wire()) + "\n" for row in rows))
    return path


def _prepare(workspace: Workspace) -> Result:
    names = ("train", "validation", "contexts", "test", "model")
    for name in names:
        (workspace.scratch / name).write_text(name)
    return Result(outputs={name: workspace.scratch / name for name in names})


def _sft(workspace: Workspace) -> Result:
    (workspace.scratch / "adapter").write_text("weights")
    return Result(outputs={"adapter": workspace.scratch / "adapter"})


def _evaluate(workspace: Workspace) -> Result:
    return Result(outputs={"answers": write(workspace.scratch / "answers.jsonl", answers(1, stock=True))})


def publish(file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Run, dict[str, str]]:
    """The run in the file with prepare, sft and evaluate-0 in its storage, and the keys of its stages."""
    run, runner = local_run(file), Runner(capsys)
    nodes, contents = build_graph(run.spec, dict(run.pins)), None
    for stage, code in (("prepare", _prepare), ("sft", _sft), ("evaluate-0", _evaluate)):
        spec = fake_stages.spec(run.spec.storage, stage, contents, nodes=nodes)
        exit_code, report = runner(spec, **{spec.kind: code})
        assert exit_code == 0, report
        contents = contents or report.contents
    return run, resolve_keys(nodes, contents)
