"""Embeddings of sentences with transformers, in this process: the mean of the last layer's states, with length 1.

On the CPU: the models are small, and vLLM may have taken the GPU's memory. No code of a model is run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..cgroup import allowed_cores
from ..contract.errors import PermanentError
from ..metrics.bootstrap import Floats
from ..models.load import Location, locate, require_weights, unloadable
from ..store.base import file_sha256

BATCH = 64
"""Texts of a forward pass."""
LONGEST = 512
"""Tokens of a text that are read, where the model states no lower bound."""
STATED = "sentence_bert_config.json"
"""Where Sentence-Transformers states the bound."""
UNUSED = "pooler."
"""Weights that mean pooling does not use, and a model may lack."""


class SentenceModel:
    """Maps texts to vectors of length 1; their dot product is their cosine."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, longest: int, name: str) -> None:
        self.model = model
        self.tokenizer = tokenizer
        # Libraries that are given the tokenizer ask it.
        tokenizer.model_max_length = self._longest = longest
        self.source = f"{name}, first {longest} tokens"
        """The model's commit or digest, and how much of a text it reads."""
        self.method = f"mean pooling of {self.source}"
        """What makes two vectors comparable."""

    @classmethod
    def load(cls, reference: Path | str) -> SentenceModel:
        """A sentence model's directory or reference. Raises PermanentError (`ModelIncomplete`), or TransientError
        (`ModelUnavailable`) if the hub cannot be reached.
        """
        location = locate(reference)
        if location.directory:
            require_weights(location.directory)
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(allowed_cores())
        revision = location.revision or "main"
        try:
            tokenizer = AutoTokenizer.from_pretrained(location.name, revision=revision, trust_remote_code=False)
            model, info = AutoModel.from_pretrained(
                location.name,
                revision=revision,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
            raise unloadable(location, "sentence model", error) from error
        # Without this check, missing weights would be drawn at random, with only a warning.
        if missing := sorted(name for name in info["missing_keys"] if not name.startswith(UNUSED)):
            raise PermanentError("ModelIncomplete", f"{location.name} lacks {len(missing)} weights, first {missing[0]}")
        longest = min(_stated(location), int(tokenizer.model_max_length))
        return cls(model.eval(), tokenizer, longest, _name(location))

    @torch.inference_mode()
    def vectors(self, texts: Sequence[str]) -> Floats:
        """(texts, dimensions), each of length 1."""
        # Texts of like length share a batch, so that little is padded.
        order = sorted(range(len(texts)), key=lambda position: len(texts[position]))
        found = np.empty((len(texts), self.model.config.hidden_size))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            found[batch] = self._embedded([texts[position] for position in batch])
        return found

    def _embedded(self, texts: list[str]) -> Floats:
        encoded = self.tokenizer(texts, padding=True, truncation=True, max_length=self._longest, return_tensors="pt")
        mask = encoded["attention_mask"].unsqueeze(-1).float()
        states = self.model(**encoded).last_hidden_state
        mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return np.asarray(torch.nn.functional.normalize(mean, dim=1).numpy(), np.float64)


def _stated(location: Location) -> int:
    """The longest text in tokens by the model's own configuration."""
    file = location.directory / STATED if location.directory else None
    if file is None or not file.is_file():
        return LONGEST
    stated = json.loads(file.read_text("utf-8")).get("max_seq_length")
    return stated if isinstance(stated, int) and stated > 0 else LONGEST


def _name(location: Location) -> str:
    """The hub model and its commit, or a digest of the weights: the same model has one name wherever it lies."""
    if location.directory is None:
        return f"{location.name}@{location.revision}"
    digests = [file_sha256(path) for path in sorted(location.directory.glob("*.safetensors"))]
    return f"weights sha256 {hashlib.sha256(''.join(digests).encode()).hexdigest()[:16]}"
