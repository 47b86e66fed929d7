"""Whether a model can embed sentences (`evaluation.sentenceModel`), and where every stage finds it. No code of a model is run.

It must be an encoder that transformers loads with AutoModel, trained for mean pooling, such as the MiniLM models of
Sentence-Transformers (Reimers and Gurevych, EMNLP 2019). Only safetensors are read.
"""

from __future__ import annotations

from pathlib import Path

from ..contract.locations import SentenceModelSource, Storage
from ..contract.settings import ModelUse
from .architectures import encoders
from .files import ModelFiles
from .find import find
from .fitness import another_vocabulary, quantised, tokens_beyond, without_tensors
from .resolve import ResolvedOther, pinned
from .usable import read_model, refuse_adapter, require_complete, unknown

FIELD = "evaluation.sentenceModel"
"""The sentence model's path below `spec`."""
OF_NO_USE = ModelUse()
"""No check of a sentence model depends on how a run trains and samples."""


def resolve_sentence(source: SentenceModelSource, storage: Storage, directory: Path) -> ResolvedOther:
    """Find the sentence model, check that it is complete, and pin it; new files are written below `directory`.

    Raises as `examine_sentence` does.
    """
    target = directory / "sentence-model"
    found = find(source, storage, target, FIELD)
    _require_embedding(found.files)
    return ResolvedOther(*pinned(found, storage, target))


def examine_sentence(source: SentenceModelSource, storage: Storage, directory: Path) -> None:
    """Check the sentence model as `resolve_sentence` does.

    Raises PermanentError `SentenceModelUnfit`, `ModelIncomplete`, `ModelMalformed`, `ModelUnsupported` and what `find` raises;
    TransientError if it cannot be reached now.
    """
    _require_embedding(find(source, storage, directory / "sentence-model", FIELD).files)


def _require_embedding(files: ModelFiles) -> None:
    refuse_adapter(files)
    require_complete(files, None)
    config = files.optional("config.json")
    if fault := _kind_fault(config):
        raise files.fault("SentenceModelUnfit", fault)
    model = read_model(files, str(config["model_type"]))
    for check in (quantised, without_tensors, another_vocabulary, tokens_beyond):
        if fault := check(model, OF_NO_USE):
            raise files.fault("ModelUnsupported", fault)


def _kind_fault(config: dict[str, object]) -> str | None:
    kind, named = config.get("model_type"), config.get("architectures")
    if config.get("is_encoder_decoder") is True:
        return "it is an encoder-decoder: take an encoder for sentences with mean pooling"
    if not isinstance(kind, str) or kind not in encoders():
        return f"transformers has no model of type {kind!r}: {unknown(config)}"
    writers = [
        each
        for each in map(str, named if isinstance(named, list) else [])
        if each.endswith(("CausalLM", "LMHeadModel"))
    ]
    return f"it is a {writers[0]}: take an encoder for sentences with mean pooling" if writers else None
