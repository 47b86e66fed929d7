"""Whether a model's files are a model that a run can train: complete, of a kind that writes text, and fit for its settings."""

from __future__ import annotations

from collections.abc import Mapping

from ..contract.errors import PermanentError
from ..contract.settings import ModelUse
from .architectures import language_models
from .files import FIELD, INDEX, SINGLE, ModelFiles
from .fitness import KINDS, Model, require_fit
from .vocabulary import TEMPLATES, read_vocabulary

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
ADAPTER = "adapter_config.json"


def require_usable(files: ModelFiles, use: ModelUse) -> None:
    """Raise PermanentError unless these files are a model that the run can train. Reads no weights, only their headers.

    `ModelIncomplete`: a file or tensor is missing. `ModelMalformed`: a file holds something else. `ModelUnsupported`:
    the model is of a kind that cannot be trained, or its parts do not fit together. `LoraSettings`, `LengthSettings`: the
    run's settings do not fit the model.
    """
    _refuse_adapter(files)
    config = files.optional("config.json")
    if "config.json" in files.sizes:
        # A message about the kind of model comes before one about a file that this kind does not have.
        require_fit(Model(config, _language_model(config, files.uri)), use, files.uri, KINDS)
    _require_complete(files)
    files.require_fetched()
    model = Model(
        config,
        _language_model(config, files.uri),
        tensors=files.tensors(),
        indexed=frozenset(files.weight_map),
        generation=files.optional("generation_config.json"),
        vocabulary=read_vocabulary(files),
    )
    require_fit(model, use, files.uri)


def _refuse_adapter(files: ModelFiles) -> None:
    """With an adapter in the directory, transformers loads it and the base model that it names, not the model beside it."""
    if ADAPTER not in files.sizes:
        return
    base = str(files.document(ADAPTER).get("base_model_name_or_path") or "its base model")
    if "config.json" in files.sizes:
        advice = f"it would be loaded on {base}: merge it (merge_and_unload), or move {ADAPTER} away"
        fault = f"{ADAPTER} lies beside the model, and {advice}"
    else:
        fault = f"this is an adapter and no model: name {base}, or merge it first (merge_and_unload)"
    raise files.fault("ModelUnsupported", fault)


def _require_complete(files: ModelFiles) -> None:
    names, faults = files.sizes.keys(), []
    if "config.json" not in names:
        faults.append("no config.json: name a directory in the Hugging Face layout")
    if not names & set(TOKENIZERS):
        faults.append(f"no tokenizer ({', '.join(TOKENIZERS)}): save it beside the model with save_pretrained")
    if not names & set(TEMPLATES) and not files.optional("tokenizer_config.json").get("chat_template"):
        faults.append("no chat template: take an instruction-tuned model, or add chat_template.jinja")
    faults += _faults_of_weights(files)
    if faults:
        raise files.fault("ModelIncomplete", "; ".join(faults))


def _faults_of_weights(files: ModelFiles) -> list[str]:
    names, shards = files.sizes.keys(), set(files.weight_map.values())
    if SINGLE in names and shards - {SINGLE} and not shards - names:
        return [f"weights: both {SINGLE} and the {len(shards)} files of {INDEX}: remove the set that is not the model"]
    if absent := sorted(shards - names):
        return [f"{len(absent)} of {len(shards)} weight files are missing, first {absent[0]}: fetch it again"]
    if files.weights:
        return []
    others = sorted(name for name in names if name.endswith(".safetensors"))
    pickled = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth")))
    if others:
        kind = f"{others[0]} is not read, only {SINGLE} or the files of {INDEX}"
    elif pickled:
        kind = f"only pickled ones ({pickled[0]}), which are never read"
    else:
        kind = "none"
    return [f"weights: {kind}; convert with save_pretrained, which writes safetensors"]


def _language_model(config: Mapping[str, object], uri: str) -> str:
    """The class of the model. Raises PermanentError `ModelUnsupported` if transformers has none."""
    kind = config.get("model_type")
    if isinstance(kind, str) and (found := language_models().get(kind)):
        return found
    hint = "it brings code of its own, which is never run" if config.get("auto_map") else "update transformers"
    raise PermanentError(
        "ModelUnsupported", f"{FIELD}.uri: {uri}: transformers has no language model of type {kind!r}: {hint}"
    )
