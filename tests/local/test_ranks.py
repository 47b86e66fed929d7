"""Several processes that train together, broken off at any moment: they end as unbroken ones do, to the bit."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.errors import StageError
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.manifest import Manifest, Report
from evolution_jobs.contract.stage import Node, RankLayout, StageSpec
from evolution_jobs.contract.workspace import Result, Workspace
from evolution_jobs.runner import run_stage
from evolution_jobs.stages import sft
from evolution_jobs.store.manifests import read_manifest
from evolution_jobs.store.open import open_store

from tests.support.stages import fake_stages
from tests.support.stages.in_ranks import RanksOf, until
from tests.support.stages.least_settings import PREPARE
from tests.support.stages.tiny_model import DIALOGUES, PAIRS, random_adapter, tiny_model, write_rows
from tests.support.stages.workspace import LocalWorkspace

pytestmark = pytest.mark.model

SETTINGS = {"epochs": 6, "batchSize": 2, "gradientAccumulation": 2, "learningRate": 2e-3, "checkpointSteps": 1}


@pytest.fixture(scope="module")
def inputs(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    root = tmp_path_factory.mktemp("rows")
    model = tiny_model(small_model, root / "model")
    train, validation = (write_rows(root / f"{name}.jsonl", DIALOGUES) for name in ("train", "validation"))
    adapter, pairs = random_adapter(model, root / "before"), write_rows(root / "pairs.jsonl", PAIRS)
    return {
        "sft": {"model": model, "train": train, "validation": validation},
        "dpo": {"model": model, "adapter": adapter, "pairs": pairs},
    }


def adapter_of(result: Result) -> bytes:
    return (result.outputs["adapter"] / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["sft", "dpo"])
@pytest.mark.parametrize(
    ("rank", "number", "reason"),
    [(0, signal.SIGKILL, "Killed"), (1, signal.SIGKILL, "Killed"), (1, signal.SIGTERM, "Terminated")],
)
def test_a_rank_that_is_struck(
    tmp_path: Path, inputs: dict[str, dict[str, Path]], kind: str, rank: int, number: signal.Signals, reason: str
) -> None:
    whole = RanksOf(tmp_path / "whole", kind, SETTINGS, inputs[kind]).run()
    with pytest.raises(StageError) as caught:
        RanksOf(tmp_path / "struck", kind, SETTINGS, inputs[kind]).struck(rank, number)
    assert caught.value.reason == reason
    again = RanksOf(tmp_path / "struck", kind, SETTINGS, inputs[kind])
    assert again.saved()
    assert adapter_of(again.run()) == adapter_of(whole)


def test_sft_with_a_sharded_base_model_ends_as_in_one_process(
    tmp_path: Path, inputs: dict[str, dict[str, Path]]
) -> None:
    """Its last step and its last validation batch, of one row each, leave one rank without a pass of its own."""
    rows = {name: write_rows(tmp_path / f"{name}.jsonl", DIALOGUES[:5]) for name in ("train", "validation")}
    uneven, settings = {**inputs["sft"], **rows}, {**SETTINGS, "epochs": 5}
    alone = sft.run(LocalWorkspace(tmp_path / "alone", "sft", settings, inputs=uneven))
    two = RanksOf(tmp_path / "two", "sft", settings, uneven, "full").run()
    for curve in ("curve", "validation"):
        values = [[value for _, value in each.details[curve]] for each in (two, alone)]
        assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-4)
    assert two.details["heldWeights"] < 0.6 * alone.details["heldWeights"]


class Nodes:
    """The Pods of a stage on two nodes, as processes of this machine. Each has two ranks."""

    def __init__(self, directory: Path, inputs: dict[str, Path]) -> None:
        self.storage = Storage(uri=f"file://{directory / 'store'}")
        self._directory = directory
        sources = {name: f"prepare/{name}" for name in inputs}
        self._graph = [
            Node(id="prepare", kind="prepare", settings=PREPARE, seed=0),
            Node(id="sft", kind="sft", iteration=0, settings=SETTINGS, seed=0, inputs=sources),
        ]

        def prepare(_workspace: Workspace) -> Result:
            return Result(outputs=inputs)

        first = fake_stages.spec(self.storage, "prepare", nodes=self._graph)
        assert run_stage(first, fake_stages.stages(prepare=prepare)) == 0
        manifest = read_manifest(open_store(self.storage), first.key)
        assert manifest is not None
        self._contents = manifest.contents
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    def spec(self, layout: RankLayout) -> StageSpec:
        """The stage, trained by so many processes."""
        made = fake_stages.spec(self.storage, "sft", self._contents, nodes=self._graph)
        return made.model_copy(update={"ranks": layout})

    def start(self, index: int, layout: RankLayout) -> subprocess.Popen[bytes]:
        """Start the Pod of one node."""
        file = self._directory / "stage.json"
        file.write_text(self.spec(layout).model_dump_json(by_alias=True, exclude_none=True))
        environment = {
            "JOB_COMPLETION_INDEX": str(index),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._port),
            "GLOO_SOCKET_IFNAME": "lo",
            "EVOLUTION_TERMINATION_LOG": str(self._directory / f"report-{index}.json"),
        }
        command = [sys.executable, "-m", "evolution_jobs", "sft", "--spec", str(file)]
        errors = subprocess.PIPE if index else None
        output = subprocess.DEVNULL
        return subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=errors)

    def report(self, index: int) -> Report:
        """The termination message of one node."""
        return Report.stored((self._directory / f"report-{index}.json").read_bytes())

    def manifest(self) -> Manifest | None:
        """The published result."""
        return read_manifest(open_store(self.storage), self.spec(RankLayout()).key)


TWO_NODES = RankLayout(nodes=2)


@pytest.fixture
def nodes(tmp_path: Path, inputs: dict[str, dict[str, Path]], monkeypatch: pytest.MonkeyPatch) -> Nodes:
    monkeypatch.chdir(tmp_path)
    return Nodes(tmp_path, inputs["sft"])


def test_two_nodes_train_as_one_process(tmp_path: Path, nodes: Nodes, inputs: dict[str, dict[str, Path]]) -> None:
    helper, first = nodes.start(1, TWO_NODES), nodes.start(0, TWO_NODES)
    assert (first.wait(300), helper.wait(300)) == (0, 0)
    assert (nodes.report(0).reason, nodes.report(1).reason) == ("Completed", "NodeCompleted")
    manifest = nodes.manifest()
    assert manifest is not None
    two: dict[str, Any] = manifest.details
    assert two["processes"] == 2
    alone = sft.run(LocalWorkspace(tmp_path / "alone", "sft", SETTINGS, inputs=inputs["sft"]))
    for curve in ("curve", "validation"):
        values = [[value for _, value in each[curve]] for each in (two, alone.details)]
        assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_a_node_that_comes_late_finds_the_result(nodes: Nodes) -> None:
    assert nodes.start(0, RankLayout()).wait(300) == 0
    assert nodes.start(1, TWO_NODES).wait(300) == 0
    assert nodes.report(1).reason == "NodeCompleted"


def test_a_node_without_the_others_stops_when_it_is_asked_to(nodes: Nodes) -> None:
    """It waits for the first one, which has not come."""
    helper = nodes.start(1, TWO_NODES)
    assert helper.stderr is not None
    assert any(b"waits for the first node" in line for line in helper.stderr)
    helper.send_signal(signal.SIGTERM)
    assert helper.wait(60) == 143


def test_a_killed_node_is_lost_to_the_other(nodes: Nodes) -> None:
    helper, first = nodes.start(1, TWO_NODES), nodes.start(0, TWO_NODES)
    checkpoints = Path(nodes.storage.uri.removeprefix("file://"))
    until(lambda: any(checkpoints.glob("stages/*/checkpoints/*/index.json")))
    helper.kill()
    assert first.wait(300) == 75
    assert nodes.report(0).reason == "RankLost"
