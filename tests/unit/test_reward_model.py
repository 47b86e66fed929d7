"""What prepare asks of a reward model, and where later stages find it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evolution_jobs.contract import volumes
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.locations import RewardModelSource, Storage
from evolution_jobs.contract.settings import RewardUse
from evolution_jobs.models.architectures import classifiers
from evolution_jobs.models.resolve import DIGESTS
from evolution_jobs.models.reward import examine_reward, resolve_reward
from evolution_jobs.stages import prepare
from safetensors.numpy import save_file

from tests.support.stages.model_directory import model_directory
from tests.support.stages.workspace import LocalWorkspace

EXAMPLES = Path(__file__).parents[2] / "examples" / "quickstart" / "data"
FILES = Storage(uri="file:///storage")
S3 = Storage(uri="s3://bucket/prefix")
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForSequenceClassification"],
    "id2label": {"0": "LABEL_0"},
    "max_position_embeddings": 512,
}
KIND = "take a model for sequence classification (AutoModelForSequenceClassification) with one label"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return reward_model(tmp_path / "a reward model")


def reward_model(path: Path, labels: int = 1, head: str = "score.weight", **config: Any) -> Path:
    model_directory(path)
    (path / "config.json").write_text(json.dumps({**CONFIG, **config}), "utf-8")
    tensors = {"weight": np.ones((4, 4), np.float32), head: np.ones((labels, 4), np.float32)}
    save_file(tensors, path / "model.safetensors")
    return path


def use(path: Path | str, length: int = 512) -> RewardUse:
    uri = path.as_uri() if isinstance(path, Path) else path
    return RewardUse(model=RewardModelSource(uri=uri), max_length=length)


def test_it_is_pinned_as_the_base_model_is(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolve_reward(use(model), FILES, tmp_path / "file")
    assert found.reference == model.as_uri()
    assert found.files is not None
    assert [path.name for path in found.files.iterdir()] == [DIGESTS]
    copied = resolve_reward(use(model), S3, tmp_path / "s3")
    assert copied.reference is None
    assert copied.files is not None
    assert "model.safetensors" in {path.name for path in copied.files.iterdir()}
    monkeypatch.setattr(volumes, "PVC_ROOT", tmp_path)
    (tmp_path / "claim").mkdir()
    model.rename(tmp_path / "claim" / "reward")
    assert resolve_reward(use("pvc://claim/reward"), S3, tmp_path / "pvc").reference == "pvc://claim/reward"


def config(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (path / "config.json").write_text(json.dumps({**CONFIG, **changes}), "utf-8")

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def template(text: str) -> Callable[[Path], None]:
    return lambda path: (path / "chat_template.jinja").write_text(text, "utf-8") and None


def weights(**tensors: tuple[int, int]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        made = {name.replace("_", "."): np.ones(shape, np.float32) for name, shape in tensors.items()}
        save_file(made, path / "model.safetensors")

    return write


def pickled(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def adapted(path: Path) -> None:
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}), "utf-8")


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        (config(architectures=["LlamaForCausalLM"]), "RewardModelUnfit", f"it is a LlamaForCausalLM: {KIND}"),
        (config(architectures=None), "RewardModelUnfit", f"it is a model of no stated kind: {KIND}"),
        (config(architectures=["Qwen2ForRewardModel"]), "RewardModelUnfit", f"it is a Qwen2ForRewardModel: {KIND}"),
        (
            config(id2label={"0": "bad", "1": "good"}),
            "RewardModelUnfit",
            f"it is a LlamaForSequenceClassification with 2 labels: {KIND}",
        ),
        (config(id2label=None), "RewardModelUnfit", "with 2 labels"),
        (config(model_type="own", auto_map={"AutoModel": "m.M"}), "RewardModelUnfit", "which is never run"),
        (config(is_encoder_decoder=True), "RewardModelUnfit", KIND),
        (weights(weight=(4, 4)), "RewardModelUnfit", "its weights have no layer that scores"),
        (weights(weight=(4, 4), score_weight=(3, 4)), "RewardModelUnfit", "its layer score has 3 labels"),
        (config(max_position_embeddings=256), "RewardModelUnfit", "it has 256 positions, and reward.maxLength is 512"),
        (without("tokenizer_config.json"), "ModelIncomplete", "no chat template: take a reward model whose tokenizer"),
        (template("{{ raise_exception('only tools') }}"), "RewardModelUnfit", "only tools"),
        (without("tokenizer.json"), "ModelIncomplete", "no tokenizer"),
        (without("model.safetensors"), "ModelIncomplete", "weights: none"),
        (pickled, "ModelIncomplete", "only pickled ones (pytorch_model.bin), which are never read"),
        (adapted, "ModelUnsupported", "merge_and_unload"),
        (
            config(quantization_config={"quant_method": "gptq", "bits": 4}),
            "ModelUnsupported",
            "quantised (gptq, 4 bit)",
        ),
    ],
)
def test_what_cannot_score_is_refused_by_what_it_is(
    model: Path, tmp_path: Path, spoil: Callable[[Path], None], reason: str, words: str
) -> None:
    spoil(model)
    with pytest.raises(PermanentError) as caught:
        examine_reward(use(model), FILES, tmp_path)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"reward.model.uri: {model.as_uri()}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_blamed_on_its_own_field(tmp_path: Path) -> None:
    for uri in ((tmp_path / "none").as_uri(), "package://no_such_package", "pvc://claim/../other"):
        with pytest.raises(PermanentError, match=r"^reward\.model\.uri") as caught:
            examine_reward(use(uri), FILES, tmp_path)
        assert caught.value.reason == "ModelMissing"


def test_the_kinds_are_those_of_transformers() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    assert classifiers() == dict(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)


def test_prepare_leaves_both_models(model: Path, tmp_path: Path) -> None:
    base = model_directory(tmp_path / "base")
    settings = {
        "seedData": [{"uri": (EXAMPLES / "seed.jsonl").as_uri(), "format": "esconv"}],
        "baseModel": {"uri": base.as_uri()},
        "reward": {"model": {"uri": model.as_uri()}, "maxLength": 512},
    }
    result = prepare.run(LocalWorkspace(tmp_path / "run", "prepare", settings))
    assert result.references == {"model": base.as_uri(), "reward-model": model.as_uri()}
    assert result.copied_models == frozenset()
    assert {"model", "reward-model"} < set(result.outputs)
    assert result.details["rewardModel"] == {"uri": model.as_uri(), "reference": model.as_uri()}
