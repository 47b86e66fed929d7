"""The local driver's steps, one after the other, over a real store."""

from __future__ import annotations

from pathlib import Path

from evolution_jobs.contract.errors import TransientError
from evolution_jobs.contract.stage import RunRef
from evolution_jobs.stages.workspace import Result, Workspace
from evolution_jobs.store.file import FileStore
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.api.status import RunStatus
from evolution_operator.local.driver import Driver
from evolution_operator.local.machine import Machine
from evolution_operator.planner.observed import Run

from tests.played_stages import Process, Server, raising


class Driven:
    """A driver, and the processes that it has started."""

    def __init__(self, directory: Path, life: int = 1, shards: int = 1) -> None:
        self.store = FileStore(directory / "store")
        self.server = Server()
        spec = {
            "baseModel": {"uri": "hf://owner/model"},
            "storage": {"uri": self.store.uri},
            "data": {"seed": [{"uri": "file:///data/esconv.jsonl", "format": "esconv"}]},
            "iterations": 1,
            "generation": {"shards": shards},
            "retry": {"backoffSeconds": 0},
        }
        run = Run(
            RunRef(namespace="default", name="first", uid="uid"),
            EvolutionRunSpec.model_validate(spec),
            attempt_prefix=f"life{life}",
            pins={"source": "0"},
        )
        self.driver = Driver(run, self.store, Machine(shards), directory, lambda _: None, self.server)
        self.driver.begin()

    def step(self) -> list[str]:
        """The stages at work after a step of the driver."""
        self.driver.step(lambda _: None)
        return [process.spec.stage for process in self.server.alive()]

    def status(self) -> RunStatus:
        """What a watcher is shown."""
        shown: list[RunStatus] = []
        self.driver.step(lambda plan: shown.append(plan.status))
        return shown[-1]

    def process(self, stage: str) -> Process:
        (found,) = [process for process in self.server.alive() if process.spec.stage == stage]
        return found


def test_what_was_found_corrupt_is_not_taken_for_finished_again(tmp_path: Path) -> None:
    first = Driven(tmp_path)
    for stage in ("prepare", "sft"):
        assert first.step() == [stage]
        first.process(stage).work()

    second = Driven(tmp_path, life=2)
    assert second.step() == ["generate-1"]
    (adapter,) = (tmp_path / "store").glob("stages/*/attempts/*/adapter/*")
    adapter.write_text("spoiled")
    second.process("generate-1").work()
    assert second.step() == ["sft"]
    second.process("sft").work(raising(TransientError("Reason", "message")))
    assert second.step() == ["sft"]


def test_a_stage_that_one_of_its_shards_has_made_is_not_called_cached(tmp_path: Path) -> None:
    """The other shard, which ended a moment later, found it published."""

    def whole(workspace: Workspace) -> Result:
        path = workspace.scratch / "responses.jsonl"
        path.write_text("row\n")
        return Result(outputs={"responses": path})

    driven = Driven(tmp_path, shards=2)
    for stage in ("prepare", "sft"):
        driven.step()
        driven.process(stage).work()
    assert driven.step() == ["generate-1", "generate-1"]
    first, second = driven.server.alive()
    second.work(lambda _kind: whole)
    first.work()
    (found,) = [stage for stage in driven.status().stages if stage.id == "generate-1"]
    assert (found.state, found.cached) == ("Succeeded", False)
