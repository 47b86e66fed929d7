"""A small run with plain functions as stages, for tests of the runner."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.stage import Input, Node, RunRef, Shard, StageSpec
from evolution_jobs.contract.workspace import Result, Workspace, shard_of
from evolution_jobs.runner import Stage

from tests.support.stages.least_settings import PREPARE

IDS = [f"context-{number}" for number in range(12)]


def graph(settings: Mapping[str, Any] | None = None, pins: Mapping[str, str] | None = None) -> list[Node]:
    """The graph prepare, sft, generate-1, evaluate-0. `settings` are those of sft."""
    prepare = {**PREPARE, "pins": dict(pins or {})}
    return [
        Node(id="prepare", kind="prepare", settings=prepare, seed=0, inputs={}),
        _node("sft", 0, settings or {}, {"train": "prepare/train", "model": "prepare/model"}, id_="sft"),
        _node("generate", 1, {}, {"contexts": "prepare/contexts", "adapter": "sft/adapter"}),
        _node("evaluate", 0, {}, {"contexts": "prepare/contexts", "adapter": "sft/adapter"}),
    ]


def _node(kind: Any, iteration: int, settings: Mapping[str, Any], inputs: dict[str, str], id_: str = "") -> Node:
    return Node(
        id=id_ or f"{kind}-{iteration}",
        kind=kind,
        iteration=iteration,
        settings=dict(settings),
        seed=0,
        inputs=inputs,
    )


def spec(
    storage: Storage,
    stage: str,
    contents: Mapping[str, str] | None = None,
    *,
    nodes: list[Node] | None = None,
    name: str = "run",
    shard: tuple[int, int] = (0, 1),
    attempt: str = "a-1",
) -> StageSpec:
    """The spec of one stage of that graph, as the planner writes it."""
    nodes = nodes or graph()
    node = next(node for node in nodes if node.id == stage)
    keys = resolve_keys(nodes, contents)
    sources = {name_: source.partition("/") for name_, source in node.inputs.items()}
    return StageSpec(
        run=RunRef(namespace="tests", name=name, uid=f"uid-of-{name}"),
        stage=node.id,
        kind=node.kind,
        iteration=node.iteration,
        key=keys[node.id],
        attempt=attempt,
        settings=node.settings,
        seed=node.seed,
        inputs={name_: Input(stage=s, key=keys[s], output=output) for name_, (s, _, output) in sources.items()},
        storage=storage,
        shard=Shard(index=shard[0], count=shard[1]),
        graph=nodes if stage == "prepare" else [],
    )


def prepare(workspace: Workspace) -> Result:
    """Two files and a pinned model."""
    train, contexts = workspace.scratch / "train.jsonl", workspace.scratch / "contexts.jsonl"
    train.write_text('{"id": "dialogue"}\n')
    contexts.write_text("".join(json.dumps({"id": id_}) + "\n" for id_ in IDS))
    return Result(
        outputs={"train": train, "contexts": contexts},
        references={"model": "hf://owner/model@0123456789"},
        counts={"rows.read": 13, "dropped.empty": 1},
    )


def sft(workspace: Workspace) -> Result:
    """An adapter of two files, after three steps with a checkpoint each."""
    assert workspace.reference("model") == "hf://owner/model@0123456789"
    assert [path.name for path in workspace.input("train").iterdir()] == ["train.jsonl"]
    before = workspace.checkpoints.latest()
    done = int((before / "state" / "step").read_text()) if before else 0
    for step in range(done + 1, 4):
        state = workspace.scratch / f"checkpoint-{step}"
        (state / "state").mkdir(parents=True)
        (state / "state" / "step").write_text(str(step))
        workspace.checkpoints.save(state, step)
        workspace.progress(step, 3, "steps")
        workspace.check_stop()
    adapter = workspace.scratch / "adapter"
    (adapter / "nested").mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"weights" * 1000)
    (adapter / "nested" / "config.json").write_text("{}")
    return Result(outputs={"adapter": adapter}, metrics={"loss": 0.5}, tokens=7, details={"resumedAt": done})


def generate(workspace: Workspace) -> Result | None:
    """One answer for each context, in chunks of two."""
    contexts = (workspace.input("contexts") / "contexts.jsonl").read_text().splitlines()
    ids = [json.loads(line)["id"] for line in contexts]
    finished = workspace.rows.finished()
    mine = [id_ for id_ in shard_of(ids, workspace.spec.shard.index, workspace.spec.shard.count) if id_ not in finished]
    for start in range(0, len(mine), 2):
        workspace.rows.append({"id": id_, "text": f"answer to {id_}"} for id_ in mine[start : start + 2])
        workspace.check_stop()
    finished = workspace.rows.finished()
    if not all(id_ in finished for id_ in ids):
        return None
    responses = workspace.scratch / "responses.jsonl"
    responses.write_text("".join(json.dumps(finished[id_]) + "\n" for id_ in ids))
    return Result(outputs={"responses": responses}, counts={"rows": len(ids), "rows.mine": len(mine)})


def evaluate(workspace: Workspace) -> Result:
    """One metric."""
    metrics = workspace.scratch / "metrics.json"
    metrics.write_text("{}")
    return Result(outputs={"metrics": metrics}, metrics={"bleu2_ref": 1.25})


STAGES: dict[str, Stage] = {"prepare": prepare, "sft": sft, "generate": generate, "evaluate": evaluate}


def stages(**replaced: Stage) -> Callable[[str], Stage]:
    """The stages above, some of them replaced: what `run_stage` asks for a stage's code."""
    return {**STAGES, **replaced}.__getitem__
