"""Whether a model's files are a model that a run can train: complete, of a kind that writes text, and fit for its settings."""

from __future__ import annotations

from collections.abc import Mapping

from ..contract.settings import ModelUse
from .architectures import language_models
from .files import INDEX, SINGLE, ModelFiles
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
    refuse_adapter(files)
    config = files.optional("config.json")
    if "config.json" in files.sizes:
        # A message about the kind of model comes before one about a file that this kind does not have.
        require_fit(Model(config, _language_model(config, files)), use, files.uri, KINDS)
    require_complete(files, "take an instruction-tuned model")
    require_fit(read_model(files, _language_model(config, files)), use, files.uri)


def read_model(files: ModelFiles, class_: str) -> Model:
    """What the small files of a complete model say; `class_` is the class that transformers loads.

    Raises PermanentError `ModelMalformed`.
    """
    files.require_fetched()
    return Model(
        files.optional("config.json"),
        class_,
        tensors=files.tensors(),
        indexed=frozenset(files.weight_map),
        generation=files.optional("generation_config.json"),
        vocabulary=read_vocabulary(files),
    )


def refuse_adapter(files: ModelFiles) -> None:
    """Raise PermanentError `ModelUnsupported` if there is an adapter: transformers loads it and the base model that it
    names, not the model beside it.
    """
    if ADAPTER not in files.sizes:
        return
    base = str(files.document(ADAPTER).get("base_model_name_or_path") or "its base model")
    if "config.json" in files.sizes:
        advice = f"it would be loaded on {base}: merge it (merge_and_unload), or move {ADAPTER} away"
        fault = f"{ADAPTER} lies beside the model, and {advice}"
    else:
        fault = f"this is an adapter and no model: name {base}, or merge it first (merge_and_unload)"
    raise files.fault("ModelUnsupported", fault)


def require_complete(files: ModelFiles, other: str | None) -> None:
    """Raise PermanentError `ModelIncomplete` if a file is missing. `other` is what to do without a chat template; None if none
    is needed.
    """
    names, faults = files.sizes.keys(), []
    if "config.json" not in names:
        faults.append("no config.json: name a directory in the Hugging Face layout")
    if not names & set(TOKENIZERS):
        faults.append(f"no tokenizer ({', '.join(TOKENIZERS)}): save it beside the model with save_pretrained")
    if other and not names & set(TEMPLATES) and not files.optional("tokenizer_config.json").get("chat_template"):
        faults.append(f"no chat template: {other}, or add chat_template.jinja")
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


def _language_model(config: Mapping[str, object], files: ModelFiles) -> str:
    """The class of the model. Raises PermanentError `ModelUnsupported` if transformers has none."""
    kind = config.get("model_type")
    if isinstance(kind, str) and (found := language_models().get(kind)):
        return found
    raise files.fault("ModelUnsupported", f"transformers has no language model of type {kind!r}: {unknown(config)}")


def unknown(config: Mapping[str, object]) -> str:
    """What to do with a model of a type that transformers does not know."""
    return "it brings code of its own, which is never run" if config.get("auto_map") else "update transformers"
