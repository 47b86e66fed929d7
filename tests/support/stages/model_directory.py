"""Model directories for tests that do not load weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.support.stages.chat_families import FAMILIES, tokenizer


def model_directory(path: Path) -> Path:
    """A complete model directory in the Hugging Face layout, with one small weight in place of a network."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}), "utf-8")
    family = FAMILIES["chatml"]
    tokenizer(family.special).save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": family.template}), "utf-8")
    save_file({"weight": np.ones((4, 4), np.float32)}, path / "model.safetensors")
    return path
