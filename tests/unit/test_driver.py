"""The local driver's steps, one after the other, over a real store."""

from __future__ import annotations

from pathlib import Path

from evolution_jobs.contract.errors import TransientError
from evolution_jobs.contract.stage import RunRef
from evolution_jobs.store.file import FileStore
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.local.driver import Driver
from evolution_operator.local.machine import Machine
from evolution_operator.planner.observed import Run

from tests.played_stages import Process, Server, raising


class Driven:
    """A driver, and the processes that it has started."""

    def __init__(self, directory: Path, life: int = 1) -> None:
        self.store = FileStore(directory / "store")
        self.server = Server()
        spec = {
            "baseModel": {"uri": "hf://owner/model"},
            "storage": {"uri": self.store.uri},
            "data": {"seed": [{"uri": "file:///data/esconv.jsonl", "format": "esconv"}]},
            "iterations": 1,
            "retry": {"backoffSeconds": 0},
        }
        run = Run(
            RunRef(namespace="default", name="first", uid="uid"),
            EvolutionRunSpec.model_validate(spec),
            attempt_prefix=f"life{life}",
            pins={"source": "0"},
        )
        self.driver = Driver(run, self.store, Machine(1), directory, lambda _: None, self.server)
        self.driver.begin()

    def step(self) -> list[str]:
        """The stages at work after a step of the driver."""
        self.driver.step(lambda _: None)
        return [process.spec.stage for process in self.server.alive()]

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
