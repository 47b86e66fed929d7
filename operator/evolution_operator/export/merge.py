"""Merges an adapter into its base model. Imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.models.load import load_model, locate, with_adapter
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer
from transformers import AutoConfig, GenerationConfig


class Merged(NamedTuple):
    """What a merge has done."""

    dtype: str
    """`bfloat16`, `float32`."""
    lost: float
    """Size of the rounding errors in proportion to the adapter's update (norms over all weights); 0 in float32."""


def merge(reference: Path | str, adapter: Path, directory: Path, dtype: str | None) -> Merged:
    """Write the base model with the adapter's update added to its weights, as safetensors.

    Each weight is added in float32 and rounded once. `dtype` None takes that of the base model. Holds the whole model in
    memory, on the CPU. Raises as `models.load` does, and PermanentError `ExportInput` for a layer that cannot be merged.
    """
    own = _dtype(reference)
    wanted = own if dtype is None else getattr(torch, dtype)
    # In bfloat16 if the model is stored so: one of 8B parameters then takes 16 GB, not 32.
    base = load_model(reference, None, "bfloat16" if own == torch.bfloat16 else "float32", to_device=False)
    model = with_adapter(base.to(torch.float32) if wanted == torch.float32 else base, adapter)
    lost = _add(model, wanted)
    merged = model.unload()
    merged.to(wanted)
    merged.save_pretrained(directory)
    # safetensors writes for its owner alone; a server is another user.
    for path in directory.glob("*.safetensors"):
        path.chmod(0o644)
    return Merged(str(wanted).removeprefix("torch."), lost)


@torch.inference_mode()
def _add(model: PeftModel, dtype: torch.dtype) -> float:
    """Add each update to its weights. Returns the norm of the rounding errors over that of the updates."""
    errors = updates = 0.0
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if not isinstance(layer, Linear):
            raise PermanentError("ExportInput", f"--merge: the adapter changes {name}, which is no linear layer")
        weight = layer.get_base_layer().weight
        update = layer.get_delta_weight("default").float()
        exact = weight.float() + update
        rounded = exact.to(dtype)
        errors += (rounded.float() - exact).norm().item() ** 2
        updates += update.norm().item() ** 2
        weight.data = rounded
    return (errors / updates) ** 0.5 if updates else 0.0


def _dtype(reference: Path | str) -> torch.dtype:
    location = locate(reference)
    config = AutoConfig.from_pretrained(location.name, revision=location.revision or "main", trust_remote_code=False)
    found = getattr(config, "dtype", None)
    return found if isinstance(found, torch.dtype) else torch.float32


def generation_config(reference: Path | str) -> dict[str, object]:
    """The base model's generation config: the tokens that begin, pad and end. Empty if it has none."""
    location = locate(reference)
    try:
        found = GenerationConfig.from_pretrained(location.name, revision=location.revision or "main")
    except OSError:
        return {}
    kept = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: value for name in kept if (value := getattr(found, name, None)) is not None}
