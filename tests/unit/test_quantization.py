"""`baseModel.quantization`: every stage loads the same quantised model, and its adapter keeps its precision."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.locations import BaseModelSource, Storage
from evolution_jobs.contract.settings import ModelUse
from evolution_jobs.models import load
from evolution_jobs.models.load import load_model
from evolution_jobs.models.marked import MARK, mark, quantization_of
from evolution_jobs.models.resolve import resolve
from evolution_jobs.stages import dpo, sft
from evolution_jobs.stages.models import load_engine
from safetensors.torch import load_file

from tests.support.stages.model_directory import model_directory
from tests.support.stages.tiny_model import DIALOGUES, PAIRS, tiny_model, write_rows
from tests.support.stages.workspace import LocalWorkspace

TRAINING = {"epochs": 2, "batchSize": 2, "gradientAccumulation": 1, "learningRate": 5e-3}


@pytest.mark.parametrize("storage", ["file:///storage", "s3://bucket/runs"])
def test_the_mark_is_one_of_the_models_files(tmp_path: Path, storage: str) -> None:
    uri = model_directory(tmp_path / "model").as_uri()

    def files(name: str, **quantised: str) -> dict[str, bytes]:
        source = BaseModelSource(uri=uri, **quantised)  # type: ignore[arg-type]
        found = resolve(source, Storage(uri=storage), tmp_path / name, ModelUse())
        assert found.files is not None
        return {path.name: path.read_bytes() for path in found.files.iterdir()}

    plain, quantised = files("plain"), files("quantised", quantization="nf4")
    assert json.loads(quantised.pop(MARK))["quantization"] == "nf4"
    assert quantised == plain


def test_the_mark_pins_a_model_that_is_not_copied(tmp_path: Path) -> None:
    texts = [(mark(tmp_path / commit, "nf4", f"hf://o/m@{commit}") / MARK).read_text() for commit in ("a", "b")]
    assert texts[0] != texts[1]


def test_a_mark_of_another_version_is_refused(tmp_path: Path) -> None:
    assert quantization_of(tmp_path) is None
    (tmp_path / MARK).write_text('{"quantization": "nf2"}')
    with pytest.raises(PermanentError, match="nf2 is not known"):
        quantization_of(tmp_path)


@pytest.mark.model
def test_without_bitsandbytes_the_message_names_it(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(PermanentError, match="nf4 needs bitsandbytes") as caught:
        load_model(tiny_model(small_model, tmp_path), None, "float32", quantization="nf4")
    assert caught.value.reason == "DependencyMissing"


@pytest.mark.model
def test_all_stages_load_the_model_in_4_bits_and_train_a_float32_adapter(small_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    # On a CPU its kernels want layers in multiples of 32.
    model = mark(tiny_model(small_model, tmp_path / "model", hidden_size=128, intermediate_size=256), "nf4", None)
    train = write_rows(tmp_path / "train.jsonl", DIALOGUES)
    inputs = {"model": model, "train": train, "validation": write_rows(tmp_path / "validation.jsonl", DIALOGUES)}
    m0 = sft.run(LocalWorkspace(tmp_path / "sft", "sft", TRAINING, inputs=inputs)).outputs["adapter"]
    pairs = write_rows(tmp_path / "pairs.jsonl", PAIRS)
    # The smallest update of a bfloat16 weight would be larger than what this learning rate gives.
    settings = {**TRAINING, "learningRate": 1e-6}
    workspace = LocalWorkspace(
        tmp_path / "dpo", "dpo", settings, inputs={"model": model, "adapter": m0, "pairs": pairs}
    )
    m1 = dpo.run(workspace)
    assert m1.details["reference"]["firstStep"]["sigmoid"] == pytest.approx(math.log(2), abs=1e-6)
    before, after = (load_file(each / "adapter_model.safetensors") for each in (m0, m1.outputs["adapter"]))
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    changes = torch.cat([(after[name] - before[name]).abs().flatten() for name in before])
    assert 0 < float(changes.max()) < 1e-4
    generates = LocalWorkspace(
        tmp_path / "generate", "generate", {}, inputs={"model": model, "adapter": m1.outputs["adapter"]}
    )
    engine = load_engine(generates, generates.spec.settings)  # type: ignore[arg-type]
    layer = engine._model.get_base_model().model.layers[0].self_attn.q_proj.base_layer  # type: ignore[attr-defined]
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.numel() == 128 * 128 // 2
