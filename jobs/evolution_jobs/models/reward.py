"""Whether a model can score answers (`reward.model`), and where every stage finds it. No code of a model is run.

It must be one that transformers loads with AutoModelForSequenceClassification, with one label, whose logit is the score,
and its tokenizer must have a chat template. Only safetensors are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..contract.errors import PermanentError
from ..contract.locations import Storage
from ..contract.settings import ModelUse, RewardUse
from .architectures import classifiers
from .find import Found, find
from .fitness import Model, another_vocabulary, ids_beyond, quantised, tokens_beyond, without_tensors
from .resolve import ResolvedOther, chats_of, pinned
from .usable import read_model, refuse_adapter, require_complete, unknown

FIELD = "reward.model"
"""The reward model's path below `spec`."""
KIND = "a model for sequence classification (AutoModelForSequenceClassification) with one label"
LABELS = 2
"""Labels of a config that says nothing of them, as transformers has it."""
HEADS = ("score", "classifier", "classification_head", "logits_proj", "sequence_summary")
"""Names of the layer that gives the logits."""
OF_NO_USE = ModelUse()
"""No check of a reward model depends on how a run trains and samples."""


def resolve_reward(use: RewardUse, storage: Storage, directory: Path) -> ResolvedOther:
    """Find the reward model, check that it can score, and pin it; new files are written below `directory`.

    Raises as `examine_reward` does.
    """
    target = directory / "reward-model"
    found = find(use.model, storage, target, FIELD)
    _require_scoring(found, use, directory)
    return ResolvedOther(*pinned(found, storage, target))


def examine_reward(use: RewardUse, storage: Storage, directory: Path) -> None:
    """Check the reward model as `resolve_reward` does.

    Raises PermanentError `RewardModelUnfit`, `ModelIncomplete`, `ModelMalformed`, `ModelUnsupported` and what `find` raises;
    TransientError if it cannot be reached now.
    """
    _require_scoring(find(use.model, storage, directory / "reward-model", FIELD), use, directory)


def _require_scoring(found: Found, use: RewardUse, directory: Path) -> None:
    files = found.files
    refuse_adapter(files)
    config = files.optional("config.json")
    if "config.json" in files.sizes and (fault := kind_fault(config)):
        raise files.fault("RewardModelUnfit", fault)
    require_complete(files, "take a reward model whose tokenizer has one")
    model = read_model(files, classifiers()[config["model_type"]])
    for check in (quantised, without_tensors, another_vocabulary, tokens_beyond, ids_beyond):
        if fault := check(model, OF_NO_USE):
            raise files.fault("ModelUnsupported", fault)
    if fault := head_fault(model):
        raise files.fault("RewardModelUnfit", fault)
    if model.positions is not None and use.max_length > model.positions:
        fault = f"it has {model.positions} positions, and reward.maxLength is {use.max_length}: lower it"
        raise files.fault("RewardModelUnfit", fault)
    _require_chats(found, directory / "reward-tokenizer")


def kind_fault(config: Mapping[str, Any]) -> str | None:
    """What is wrong with a model of this config.json as a reward model; None if it may score."""
    named = str((config.get("architectures") or ["model of no stated kind"])[0])
    if config.get("is_encoder_decoder") is True or not named.endswith("ForSequenceClassification"):
        return f"it is a {named}: take {KIND}"
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in classifiers():
        return f"transformers has no model for sequence classification of type {kind!r}: {unknown(config)}"
    named_labels = config.get("id2label")
    labels = len(named_labels) if isinstance(named_labels, dict) else config.get("num_labels", LABELS)
    return f"it is a {named} with {labels} labels: take {KIND}" if labels != 1 else None


def head_fault(model: Model) -> str | None:
    """What is wrong with the layer that gives the score. Without its weights, transformers would draw them at random."""
    heads = {name: each for name, each in model.tensors.items() if set(HEADS) & set(name.split("."))}
    if not heads:
        return f"its weights have no layer that scores ({', '.join(HEADS[:3])}, ...): take {KIND}"
    score = heads.get("score.weight")
    return f"its layer score has {score.shape[0]} labels: take {KIND}" if score and score.shape[0] != 1 else None


def _require_chats(found: Found, directory: Path) -> None:
    """Raise PermanentError `RewardModelUnfit` if its template does not write a conversation and an answer."""
    said = ("user", "assistant", "user", "assistant")
    try:
        chats = chats_of(found, directory)
        for turns in range(2, len(said) + 1, 2):
            chats.ids([{"role": role, "content": "a"} for role in said[:turns]])
    except PermanentError as error:
        raise found.files.fault("RewardModelUnfit", str(error)) from error
