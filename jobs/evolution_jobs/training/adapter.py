"""LoRA adapters: made by SFT, trained on by DPO, kept as two files that name no machine."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Embedding
from transformers import PreTrainedModel

from ..contract.errors import PermanentError
from ..contract.settings import ALL_LINEAR, LoraSettings
from ..models.layers import FIELD, Layers, target_fault
from ..models.load import locate

WEIGHTS = "adapter_model.safetensors"

Tensors = dict[str, Tensor]


def new_adapter(model: PreTrainedModel, lora: LoraSettings, seed: int) -> PeftModel:
    """The model with a fresh adapter, `default`, which changes nothing yet; initialised from `seed`.

    Raises PermanentError (`LoraSettings`) where the model lacks one of the layers, or the output head is asked for: trl
    multiplies by the head's own weights, so an adapter on it would never be trained. prepare has looked the layers up in
    the checkpoint; the loaded model may have others.
    """
    layers = _layers(model)
    if fault := target_fault(lora.target_modules, layers):
        raise PermanentError("LoraSettings", fault)
    target = ALL_LINEAR if lora.target_modules == [ALL_LINEAR] else lora.target_modules
    config = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=target, task_type="CAUSAL_LM"
    )
    torch.manual_seed(seed)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        named = ", ".join(lora.target_modules)
        raise PermanentError(
            "LoraSettings", f"{FIELD}: LoRA cannot adapt {named} of this model (it has {', '.join(layers.linear)})"
        ) from error


def _layers(model: PreTrainedModel) -> Layers:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    modules = list(model.named_modules())
    shapes = {
        path: tuple(weight.shape)
        for path, module in modules
        if isinstance(weight := getattr(module, "weight", None), Tensor)
    }
    return Layers(
        shapes,
        heads=[path for path, module in modules if module is head],
        embeddings=[path for path, module in modules if isinstance(module, Embedding)],
        tied=head.weight is embedding.weight,
    )


def adapter_tensors(model: PeftModel, name: str = "default") -> Tensors:
    """A copy of the adapter's weights on the CPU, under the names that its file uses."""
    return {key: value.detach().cpu().clone() for key, value in _weights(model, name).items()}


def same_tensors(left: Tensors, right: Tensors) -> bool:
    """Whether both hold the same names with bit-identical values."""
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def require_learnt(before: Tensors, after: Tensors, kind: str, steps: int) -> None:
    """Raise PermanentError (`NothingLearnt`) if training has left the adapter as it was: Mt would be M(t-1).

    `kind` is the stage's, sft or dpo, for the message.
    """
    if same_tensors(before, after):
        raise PermanentError(
            "NothingLearnt",
            f"the adapter is the same after {steps} optimiser steps as before: raise {kind}.learningRate"
            + (f", or {kind}.sftWeight or {kind}.beta" if kind == "dpo" else ""),
        )


def save_adapter(model: PeftModel, tensors: Tensors, base: str | None, directory: Path) -> Path:
    """Write `adapter_model.safetensors` and `adapter_config.json`; equal weights give equal bytes.

    `base` is the pinned reference of the base model, if there is one. The configuration names a model of the hub and no
    other: the place of a directory is nothing that another machine could use.
    """
    config = copy.copy(model.peft_config["default"])
    hub = locate(base) if base and base.startswith("hf://") else None
    config.base_model_name_or_path = hub.name if hub else None
    config.revision = hub.revision if hub else None
    config.inference_mode = True
    # PEFT keeps the names in a set, and the order of a set differs between processes.
    config.target_modules = sorted(config.target_modules)
    directory.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(directory))
    save_file({key: value.contiguous() for key, value in tensors.items()}, directory / WEIGHTS, {"format": "pt"})
    return directory


def _weights(model: PeftModel, name: str) -> Tensors:
    weights: Tensors = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return weights
