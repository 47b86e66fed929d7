"""A model small enough to train in a second, and rows to train it on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from evolution_jobs.contract.document import Document
from evolution_jobs.contract.rows import Dialogue, Instruction, Pair, Turn
from evolution_jobs.training.adapter import adapter_tensors, save_adapter
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM


def tiny_model(tokenizer_of: Path, directory: Path, **settings: object) -> Path:
    """A Llama of two layers with random weights, and the tokenizer and chat template of another model."""
    torch.manual_seed(0)
    usual: dict[str, Any] = {
        "vocab_size": 49152,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    LlamaForCausalLM(LlamaConfig(**usual | settings)).save_pretrained(directory)
    copy_tokenizer(tokenizer_of, directory)
    return directory


def copy_tokenizer(model: Path, directory: Path) -> None:
    """Copy a model's tokenizer and chat template."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model / name, directory / name)


def random_adapter(model: Path, directory: Path, seed: int = 1) -> Path:
    """An adapter that changes the model's output, as that of M(t-1) does."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    wrapped = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    return save_adapter(wrapped, adapter_tensors(wrapped), None, directory)


def dialogue(*texts: str) -> Dialogue:
    """Alternating turns of seeker and supporter."""
    turns = [Turn(role="supporter" if place % 2 else "seeker", text=text) for place, text in enumerate(texts)]
    return Dialogue(id=str(abs(hash(texts)))[:16], source="test", turns=turns)


DIALOGUES = [
    dialogue("I lost my job.", "That must hurt.", "It does.", "What happened?"),
    dialogue("My dog died last week.", "I am so sorry. Tell me about her."),
    dialogue("I cannot sleep.", "Since when?", "A month.", "What goes through your mind at night?", "Work."),
    dialogue("Exams are near and I panic.", "You are not alone with that."),
    dialogue("We split up.", "How are you holding up?", "Badly.", "Do you have a friend to call?"),
    dialogue("Nobody listens to me.", "I do, and I want to hear more."),
]

INSTRUCTIONS = [
    Instruction(id="1", prompt="Name a colour.", response="Blue."),
    Instruction(id="2", prompt="What is 2 + 2?", response="4."),
]

PAIRS = [
    Pair(
        id=f"{each.id}-1",
        turns=each.turns[:1],
        chosen=each.turns[1].text,
        rejected="It sounds like you feel bad." + " Take care." * place,
        source="self",
    )
    for place, each in enumerate(DIALOGUES)
]


def write_rows(path: Path, rows: Sequence[Document]) -> Path:
    """JSON Lines."""
    path.write_text("".join(row.model_dump_json(by_alias=True) + "\n" for row in rows), "utf-8")
    return path
