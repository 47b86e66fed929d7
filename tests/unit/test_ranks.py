"""Training in several processes: it ends as training in one does, also if one of them is killed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from evolution_jobs.attempt.rank_failures import RankReport, failure
from evolution_jobs.attempt.torchrun import environment, require_gpus
from evolution_jobs.contract.errors import PermanentError, TransientError
from evolution_jobs.contract.stage import RankLayout
from evolution_jobs.contract.variables import GPUS_VARIABLE
from evolution_jobs.contract.workspace import Result
from evolution_jobs.stages import dpo, sft
from evolution_jobs.training.ranks import Ranks
from safetensors.torch import load_file

from tests.support.stages.in_ranks import RanksOf
from tests.support.stages.tiny_model import DIALOGUES, INSTRUCTIONS, PAIRS, random_adapter, tiny_model, write_rows
from tests.support.stages.workspace import LocalWorkspace

pytestmark = pytest.mark.model

SFT = {
    "epochs": 3,
    "batchSize": 2,
    "gradientAccumulation": 2,
    "learningRate": 5e-3,
    "lora": {"r": 4},
    "checkpointSteps": 1,
}
DPO = {"epochs": 3, "batchSize": 2, "gradientAccumulation": 2, "learningRate": 1e-3, "checkpointSteps": 1}


@pytest.fixture(scope="module")
def tiny(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(small_model, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def sft_inputs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rows")
    return {
        "model": tiny,
        "train": write_rows(root / "train.jsonl", DIALOGUES[:5]),
        "validation": write_rows(root / "validation.jsonl", DIALOGUES[3:]),
        "replay": write_rows(root / "replay.jsonl", INSTRUCTIONS),
    }


@pytest.fixture(scope="module")
def dpo_inputs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rows")
    adapter = random_adapter(tiny, root / "before")
    return {"model": tiny, "adapter": adapter, "pairs": write_rows(root / "pairs.jsonl", PAIRS)}


def same(left: Result, right: Result) -> None:
    """Curves, figures, counts and weights agree."""
    assert (left.counts, left.tokens, left.details["steps"]) == (right.counts, right.tokens, right.details["steps"])
    assert left.metrics == pytest.approx(right.metrics, rel=1e-4, abs=1e-4)
    for name in ("curve", "validation", "margins"):
        one, other = ([value for _, value in each.details.get(name, [])] for each in (left, right))
        assert one == pytest.approx(other, rel=1e-4, abs=1e-4)
    weights = [load_file(each.outputs["adapter"] / "adapter_model.safetensors") for each in (left, right)]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


def test_sft_with_a_killed_rank_ends_as_in_one_process(tmp_path: Path, sft_inputs: dict[str, Path]) -> None:
    alone = sft.run(LocalWorkspace(tmp_path / "alone", "sft", SFT, inputs=sft_inputs))
    with pytest.raises(TransientError, match="rank 1 of 2 was killed") as caught:
        RanksOf(tmp_path / "two", "sft", SFT, sft_inputs).struck(1, signal.SIGKILL)
    assert caught.value.reason == "Killed"
    again = RanksOf(tmp_path / "two", "sft", SFT, sft_inputs)
    assert len(again.saved()) == 1
    same(again.run(), alone)


def test_dpo_with_a_sharded_base_model_ends_as_in_one_process(tmp_path: Path, dpo_inputs: dict[str, Path]) -> None:
    """Each rank holds half of the base model. Held-out pairs are ranked by it, too."""
    settings = {**DPO, "heldOut": 0.5}
    alone = dpo.run(LocalWorkspace(tmp_path / "alone", "dpo", settings, inputs=dpo_inputs))
    two = RanksOf(tmp_path / "two", "dpo", settings, dpo_inputs, "full").run()
    same(two, alone)
    assert "heldout_margin" in two.metrics
    first = two.details["reference"]["firstStep"]
    assert first == pytest.approx(alone.details["reference"]["firstStep"], abs=1e-6)
    assert (alone.details["processes"], two.details["processes"]) == (1, 2)
    assert two.details["heldWeights"] == pytest.approx(alone.details["heldWeights"] / 2, rel=0.05)


class TestFailure:
    """Which failure of several ranks is the stage's."""

    LOST = RankReport(reason="RankLost", message="lost", exit_code=75)
    EMPTY = RankReport(reason="DataEmpty", message="empty", exit_code=65)
    STOPPED = RankReport(reason="Terminated", message="stopped", exit_code=143)

    @pytest.mark.parametrize(
        ("codes", "reports", "out_of_memory", "reason"),
        [
            ({0: 75, 1: -9}, {0: LOST}, False, "Killed"),
            ({0: 75, 1: -9}, {0: LOST}, True, "OutOfMemory"),
            ({0: 75, 1: -11}, {0: LOST}, False, "ProcessDied"),
            ({0: 65, 1: -15}, {0: EMPTY}, False, "DataEmpty"),
            ({0: 75}, {0: LOST, 1: EMPTY}, False, "DataEmpty"),
            ({0: 143, 1: 143}, {0: STOPPED, 1: STOPPED}, False, "Terminated"),
            ({0: 75, 1: 143}, {0: LOST, 1: STOPPED}, False, "RankLost"),
            ({0: -15, 1: -15}, {}, False, "Terminated"),
            ({0: 75, 1: 75}, {0: LOST, 1: LOST}, False, "RankLost"),
            ({}, {}, False, "ProcessDied"),
        ],
    )
    def test_the_cause_comes_before_its_effects(
        self, codes: dict[int, int], reports: dict[int, RankReport], out_of_memory: bool, reason: str, tmp_path: Path
    ) -> None:
        spec = LocalWorkspace(tmp_path, "sft", {}).spec
        assert failure(spec, codes, reports, out_of_memory).reason == reason


@pytest.mark.parametrize(
    ("count", "rows", "batch", "expected"),
    [(1, 8, 4, 4), (2, 8, 4, 4), (4, 8, 4, 2), (8, 8, 4, 1), (3, 8, 4, 2), (2, 12, 4, 4)],
)
def test_passes_are_small_enough_for_every_rank_to_have_one(count: int, rows: int, batch: int, expected: int) -> None:
    ranks = Ranks()
    ranks.count = count
    assert ranks.share(rows, batch) == expected


def test_cores_are_divided_among_ranks_and_one_node_stays_on_the_loopback() -> None:
    four = RankLayout(processes=4)
    assert environment(four, {}, 8) == {"OMP_NUM_THREADS": "2", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    assert environment(four, {"OMP_NUM_THREADS": "2", "GLOO_SOCKET_IFNAME": "eth1"}, 8)["OMP_NUM_THREADS"] == "1"
    assert environment(RankLayout(processes=4, nodes=2), {"OMP_NUM_THREADS": "16"}, 64) == {"OMP_NUM_THREADS": "4"}


@pytest.mark.parametrize(
    ("given", "visible", "enough"),
    [("0", 0, True), ("2", 2, True), ("0", 4, True), ("2", 0, True), ("1", 4, False), ("4", 1, False), ("0", 1, False)],
)
def test_each_process_needs_a_gpu_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, visible: int, enough: bool
) -> None:
    """`given` is what the Pod has, `visible` what CUDA_VISIBLE_DEVICES leaves of it."""
    monkeypatch.setenv(GPUS_VARIABLE, given)
    spec = LocalWorkspace(tmp_path, "sft", SFT).spec.model_copy(update={"ranks": RankLayout(processes=2)})
    if enough:
        return require_gpus(spec, visible)
    with pytest.raises(PermanentError, match=r"sft\.processes is 2 and 1 GPU\(s\) can be used here") as caught:
        require_gpus(spec, visible)
    assert caught.value.reason == "GpuMissing"
    return None
