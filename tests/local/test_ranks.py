"""Several processes that train together, broken off at any moment: they end as unbroken ones do, to the bit."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from evolution_jobs.contract.errors import StageError
from evolution_jobs.contract.workspace import Result

from tests.support.stages.in_ranks import RanksOf
from tests.support.stages.tiny_model import DIALOGUES, PAIRS, random_adapter, tiny_model, write_rows

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
