"""Chat templates with the rules of model families in our own words, and a tokenizer that has their tokens."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from evolution_jobs.chat.chats import Chats
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

_TURNS = "{% for m in messages %}"
_CHATML = _TURNS + "{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endfor %}"
_OPEN_CHATML = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
_THINKS_LAST = (
    _TURNS
    + "{{ '<|im_start|>' ~ m.role ~ '\n' }}{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{{ (m.content.split('</think>') | last) ~ '<|im_end|>\n' }}{% endfor %}"
)
_ALTERNATES = (
    "{% if (loop.index0 % 2 == 0) != (m.role == 'user') %}{{ raise_exception('roles must alternate') }}{% endif %}"
)


class Family(NamedTuple):
    """A family's template and special tokens, the first one its beginning of sequence and the second its end."""

    template: str
    special: tuple[str, ...]
    added: tuple[str, ...] = ()
    """Added tokens that are not special."""

    def chats(self) -> Chats:
        """The family's chats over a small byte-level tokenizer."""
        names = {"bos_token": self.special[0], "eos_token": self.special[1]}
        return Chats(self.template, names, tokenizer(self.special, self.added))


FAMILIES = {
    "chatml": Family(_CHATML + _OPEN_CHATML, ("<|endoftext|>", "<|im_end|>", "<|im_start|>")),
    "gemma": Family(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + _TURNS + _ALTERNATES + "{{ '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\n' ~ "
        "m.content | trim ~ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    ),
    "qwen3": Family(
        _THINKS_LAST + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and not "
        "enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
        ("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
        ("<think>", "</think>"),
    ),
    "qwen3-thinking-only": Family(
        _THINKS_LAST + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}",
        ("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
        ("<think>", "</think>"),
    ),
    "phi3": Family(
        _TURNS + "{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "mistral-v3": Family(
        "{% if messages[0].role == 'system' %}{% set told = messages[0].content %}{% set rest = messages[1:] %}{% else %}"
        "{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}" + _ALTERNATES +
        "{% if m.role == 'user' %}{{ '[INST] ' ~ (told ~ '\n\n' if loop.last and told is defined else '') ~ m.content ~ "
        "'[/INST]' }}{% else %}{{ ' ' ~ m.content | trim ~ eos_token }}{% endif %}{% endfor %}",
        ("<s>", "</s>", "[INST]", "[/INST]"),
    ),
    "system-moves": Family(
        "{% set told = '' %}{% set rest = messages %}{% if messages[0].role == 'system' %}{% set told = messages[0].content ~ "
        "'\n\n' %}{% set rest = messages[1:] %}{% endif %}{{ bos_token }}{% for m in rest %}" + _ALTERNATES +
        "{% if m.role == 'user' %}{% set last = loop.last or (loop.revindex == 2 and rest[-1].role == 'assistant') %}"
        "{{ '[INST] ' ~ (told if last else '') ~ m.content ~ '[/INST]' }}{% else %}{{ ' ' ~ m.content | trim ~ eos_token }}"
        "{% endif %}{% endfor %}",
        ("<s>", "</s>", "[INST]", "[/INST]"),
    ),
    "llama-3.1": Family(
        "{{ bos_token ~ '<|start_header_id|>system<|end_header_id|>\n\nToday: ' ~ strftime_now('%d %b %Y') ~ '\n\n' }}"
        "{% set rest = messages %}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set rest = messages[1:] %}"
        "{% endif %}{{ '<|eot_id|>' }}{% for m in rest %}{{ '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\n\n' ~ "
        "m.content | trim ~ '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "deepseek-r1": Family(
        "{{ bos_token }}" + _TURNS + "{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}{{ '<|User|>' ~ "
        "m.content }}{% else %}{{ '<|Assistant|>' ~ (m.content.split('</think>') | last) ~ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}",
        ("<|begin|>", "<|eos|>", "<|User|>", "<|Assistant|>"),
        ("<think>", "</think>"),
    ),
    "glm": Family(
        _TURNS + "{{ '<|' ~ m.role ~ '|>\n' ~ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        ("<|start|>", "<|endoftext|>"),
        ("<|system|>", "<|user|>", "<|assistant|>"),
    ),
    "gpt-oss": Family(
        _TURNS + "{{ '<|start|>' ~ m.role }}{% if m.role == 'assistant' %}{{ '<|channel|>final' }}{% endif %}{{ '<|message|>' ~ "
        "m.content ~ ('<|return|>' if m.role == 'assistant' and loop.last else '<|end|>') }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
        ("<|startoftext|>", "<|return|>", "<|start|>", "<|message|>", "<|channel|>", "<|end|>"),
    ),
}  # fmt: skip
"""Rules as these families' templates have them. The templates are ours."""

_TEXTS = ["I lost my job last week and cannot sleep.", "That sounds hard. What happened?\n\nTell me more."] * 4


@cache
def tokenizer(special: tuple[str, ...], added: tuple[str, ...] = ()) -> Tokenizer:
    """A byte-level BPE tokenizer with these tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        _TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    )
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    return made


def save_tokenizer(family: Family, directory: Path) -> None:
    """Write the family's tokenizer.json, tokenizer_config.json and chat template."""
    import json

    directory.mkdir(parents=True, exist_ok=True)
    tokenizer(family.special, family.added).save(str(directory / "tokenizer.json"))
    names = {"bos_token": family.special[0], "eos_token": family.special[1]}
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}), "utf-8"
    )
    (directory / "chat_template.jinja").write_text(family.template, "utf-8")
