"""The local driver's steps, one after the other, over a real store."""

from __future__ import annotations

from pathlib import Path

import pytest
from evolution_jobs.contract.errors import TransientError
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.stage import RankLayout, RunRef, StageSpec
from evolution_jobs.contract.workspace import Result, Workspace
from evolution_jobs.store.file import FileStore
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.api.status import RunStatus, StageStatus
from evolution_operator.local.attempts import LocalAttempt
from evolution_operator.local.driver import Driver
from evolution_operator.local.machine import Machine
from evolution_operator.planner.actions import Start
from evolution_operator.planner.observed import Run

from tests.support.cluster.objects import stage_start
from tests.support.run_document import minimal_spec
from tests.support.stages.fake_processes import Process, Server, raising


class Driven:
    """A driver, and the processes that it has started."""

    def __init__(self, directory: Path, life: int = 1, shards: int = 1, name: str = "first") -> None:
        self.store = FileStore(directory / "store")
        self.server = Server()
        spec = minimal_spec(
            storage_uri=self.store.uri,
            seed_uri="file:///data/esconv.jsonl",
            iterations=1,
            generation={"shards": shards},
            retry={"backoffSeconds": 0},
        )
        self.run = Run(
            RunRef(namespace="default", name=name, uid="uid"),
            EvolutionRunSpec.model_validate(spec),
            attempt_prefix=f"life{life}",
            pins={"source": "0"},
        )
        self.driver = Driver(self.run, self.store, Machine(shards), directory, lambda _: None, self.server)
        self.driver.begin()

    def step(self) -> list[str]:
        """The stages that run after a step of the driver."""
        self.driver.step(lambda _: None)
        return [process.spec.stage for process in self.server.alive()]

    def status(self) -> RunStatus:
        """The status that the display gets."""
        shown: list[RunStatus] = []
        self.driver.step(lambda plan: shown.append(plan.status))
        return shown[-1]

    def stage(self, id_: str) -> StageStatus:
        """One stage of the status that the display gets."""
        return self.status().stage_by_id()[id_]

    def process(self, stage: str) -> Process:
        (found,) = [process for process in self.server.alive() if process.spec.stage == stage]
        return found


@pytest.mark.parametrize(
    ("asked", "machine", "processes", "gpus"),
    [
        (RankLayout(processes=2), Machine(4), 2, None),
        (RankLayout(processes=8, nodes=2), Machine(4), 4, None),
        (RankLayout(processes=2), Machine(16, ("3", "5", "6")), 2, "3,5"),
        (RankLayout(processes=2, nodes=2), Machine(16, ("3", "5", "6")), 3, "3,5,6"),
    ],
)
def test_processes_that_train_together_get_what_the_machine_has(
    tmp_path: Path, asked: RankLayout, machine: Machine, processes: int, gpus: str | None
) -> None:
    server = Server()
    start = stage_start(ranks=asked)
    attempt = LocalAttempt(start, tmp_path)
    attempt.admit(server, machine, list(machine.gpus))
    (process,) = server.processes
    assert process.spec.ranks == RankLayout(processes=processes)
    assert process.gpu == gpus
    assert attempt.gpus == (gpus.split(",") if gpus else [])


def test_processes_that_train_together_wait_until_there_is_a_gpu_for_each(tmp_path: Path) -> None:
    server, machine = Server(), Machine(16, ("0", "1"))
    attempt = LocalAttempt(stage_start(ranks=RankLayout(processes=2)), tmp_path)
    attempt.admit(server, machine, ["1"])
    assert (server.processes, attempt.observed().state) == ([], "queued")
    attempt.admit(server, machine, ["0", "1"])
    assert len(server.processes) == 1


def a_spec(directory: Path) -> StageSpec:
    return StageSpec(
        run=RunRef(namespace="default", name="first", uid="uid"),
        stage="generate-1",
        kind="generate",
        iteration=1,
        key="ab" * 32,
        attempt="a-1",
        settings={},
        seed=0,
        storage=Storage(uri=FileStore(directory / "store").uri),
    )


def test_a_run_records_finished_stages_before_it_uses_them(tmp_path: Path) -> None:
    """It starts no process for them, and the run that computed them may be deleted meanwhile."""
    first = Driven(tmp_path)
    for stage in ("prepare", "sft"):
        first.step()
        first.process(stage).work()
    Driven(tmp_path, name="second")
    recorded = [place.removeprefix("runs/default/second/uid/") for place, _ in first.store.list("runs/default/second/")]
    assert {place.split("/")[1] for place in recorded} >= {"prepare", "sft", "generate-1"}


def test_a_result_that_was_found_corrupt_does_not_count_as_finished_again(tmp_path: Path) -> None:
    first = Driven(tmp_path)
    for stage in ("prepare", "sft"):
        assert first.step() == [stage]
        first.process(stage).work()

    second = Driven(tmp_path, life=2)
    assert second.step() == ["generate-1"]
    (adapter,) = (tmp_path / "store").glob("stages/*/attempts/*/adapter/*")
    adapter.write_text("corrupted")
    second.process("generate-1").work()
    assert second.step() == ["sft"]
    second.process("sft").work(raising(TransientError("Reason", "message")))
    assert second.step() == ["sft"]


def test_a_stage_that_its_own_shard_has_published_is_not_cached(tmp_path: Path) -> None:
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
    found = driven.stage("generate-1")
    assert (found.state, found.cached) == ("Succeeded", False)


def test_rows_done_before_the_process_started_set_no_pace(tmp_path: Path) -> None:
    """`reflect-1: 1/14 rows, 0 s left` was shown for a minute: the row had been dropped before the model was asked."""
    driven = Driven(tmp_path)
    for stage in ("prepare", "sft", "generate-1"):
        driven.step()
        driven.process(stage).work()
    driven.step()
    driven.process("reflect-1").print_line({"done": 1, "total": 14, "unit": "rows"})
    progress = driven.stage("reflect-1").progress
    assert progress is not None
    assert (progress.done, progress.total, progress.eta_seconds) == (1, 14, None)


def test_a_stage_that_waits_for_another_run_says_so_until_it_computes(tmp_path: Path) -> None:
    driven = Driven(tmp_path)
    driven.step()
    driven.process("prepare").work()
    driven.step()
    driven.process("sft").print_line({"stage": "sft", "shard": 0, "run": "team/first"}, "waiting")
    found = driven.stage("sft")
    assert (found.state, found.reason) == ("Running", "ComputedElsewhere")
    assert found.message is not None
    assert "run team/first computes this stage" in found.message
    driven.process("sft").print_line({"stage": "sft", "shard": 0, "run": None}, "waiting")
    assert driven.stage("sft").reason is None


def test_the_time_left_comes_from_rows_that_were_observed_to_finish(tmp_path: Path) -> None:
    clock = [0.0]
    start = Start(a_spec(tmp_path), 1, 1, True)
    attempt, server = LocalAttempt(start, tmp_path, lambda: clock[0]), Server()
    attempt.admit(server, Machine(1), [])
    for clock[0], done in ((0.0, 1), (60.0, 9)):
        server.processes[0].print_line({"done": done, "total": 14, "unit": "rows"})
        attempt.poll()
    progress = attempt.observed().progress
    assert progress is not None
    assert progress.eta_seconds == 38
    attempt.suspend()
    server.processes[0].join()
    attempt.poll()
    clock[0] = 4000.0
    attempt.resume()
    assert attempt.observed().progress is None, "a pause does not count as work"


@pytest.mark.parametrize(
    ("counted", "kind", "reason", "message"),
    [
        ([3, 4], "out-of-memory", "OOMKilled", "because memory ran out"),
        ([3, 3], "transient", "Killed", "was killed (SIGKILL; its log is "),
        ([None, None], "transient", "Killed", "was killed (SIGKILL; its log is "),
    ],
)
def test_a_kill_is_out_of_memory_only_if_the_kernel_has_counted_one(
    tmp_path: Path, counted: list[int | None], kind: str, reason: str, message: str
) -> None:
    attempt, server = (
        LocalAttempt(Start(a_spec(tmp_path), 1, 1, True), tmp_path, kills=lambda: counted.pop(0)),
        Server(),
    )
    attempt.admit(server, Machine(1), [])
    server.processes[0].kill()
    attempt.poll()
    failure = attempt.observed().failure
    assert failure is not None
    assert (failure.kind, failure.reason) == (kind, reason)
    assert message in failure.message
    assert failure.more_memory == "free memory on this machine"
