"""A stand-in for a reward model, because no package ships one: its preference is planted, so a test knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification

from tests.support.stages.tiny_model import copy_tokenizer

MARKED = " gently"
"""The word that is rewarded: one token of SmolLM2."""


def planted_reward_model(tokenizer_of: Path, directory: Path, labels: int = 1, **settings: Any) -> Path:
    """A Llama for sequence classification that scores a text by the share of its tokens that are `MARKED`.

    Its only layer attends to all tokens alike and adds their mean to the last one; the head reads that sum.
    """
    usual: dict[str, Any] = {
        "vocab_size": 49152,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "num_labels": labels,
    }
    model = LlamaForSequenceClassification(LlamaConfig(**usual | settings))
    (marked,) = Tokenizer.from_file(str(tokenizer_of / "tokenizer.json")).encode(MARKED).ids
    layer, eye = model.model.layers[0], torch.eye(8)
    with torch.no_grad():
        for weight in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.mlp.down_proj, model.score):
            weight.weight.zero_()
        layer.self_attn.v_proj.weight.copy_(eye)
        layer.self_attn.o_proj.weight.copy_(eye)
        embedding = model.model.embed_tokens.weight
        embedding.zero_()
        embedding[:, 1] = 1.0
        embedding[marked, 0] = 1.0
        model.score.weight[0, 0] = 1.0
    model.save_pretrained(directory)
    copy_tokenizer(tokenizer_of, directory)
    return directory
