"""Whether a checkpoint is quantised, and how, from config.json and the headers of its weights. Pure.

A quantised checkpoint needs a library and a GPU of its own, and its layers are not those that LoRA and the merge expect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .weights import Tensor

SECTIONS = ("quantization_config", "compression_config", "quantization")
"""Where a config.json describes it. MLX writes the last one."""
BITS = ("bits", "w_bit", "nbits", "num_bits", "weight_bits")
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
SUFFIXES = (".qweight", ".qzeros", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".absmax", ".SCB", "_blocks")
"""Ends of the names of tensors that only quantised checkpoints have."""


def quantisation(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
    """How the model is quantised, such as `bitsandbytes, 4 bit`; None if it is not."""
    parts = [config, *(part for part in (config.get("text_config"),) if isinstance(part, dict))]
    for section in (part.get(name) for part in parts for name in SECTIONS):
        if isinstance(section, dict) and section:
            words = (_method(section), _width(section))
            return ", ".join(word for word in words if word) or "see quantization_config in config.json"
    for name, tensor in tensors.items():
        if name.endswith(SUFFIXES) or (name.endswith(".weight") and tensor.dtype not in FLOATS):
            return f"weights such as {name} are {tensor.dtype}"
    return None


def _method(section: Mapping[str, Any]) -> str:
    return str(section.get("quant_method") or section.get("quant_type") or section.get("quant_library") or "")


def _width(section: Mapping[str, Any]) -> str:
    for bits in (4, 8):
        if section.get(f"load_in_{bits}bit") or section.get(f"_load_in_{bits}bit"):
            return f"{bits} bit"
    found = _bits(section)
    if found is None and "fp8" in _method(section):
        found = 8
    return f"{found} bit" if found else ""


def _bits(section: Mapping[str, Any]) -> int | None:
    """The first number of bits at any depth."""
    for name in BITS:
        if isinstance(section.get(name), int):
            return int(section[name])
    deeper = (_bits(each) for each in section.values() if isinstance(each, dict))
    return next((bits for bits in deeper if bits), None)
