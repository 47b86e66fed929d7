"""Families of models, known by their names: a judge prefers answers of its own family (FastChat issue 3911)."""

from __future__ import annotations

import re

FAMILIES: dict[str, str] = {
    "llama": r"llama|vicuna|alpaca|tulu",
    "qwen": r"qwen|qwq",
    "mistral": r"mi[sx]tral|ministral|magistral|zephyr",
    "gemma": r"gemma|gemini",
    "smollm": r"smol_?lm",
    "phi": r"(?<![a-z])phi(?![a-z])",
    "gpt": r"(?<![a-z])(chat)?gpt|(?<![a-z0-9])o[1345](?![a-z0-9.])",
    "claude": r"claude",
    "deepseek": r"deepseek",
    "glm": r"(?<![a-z])(chat)?glm",
    "command": r"(?<![a-z])(command-|c4ai|aya(?![a-z]))",
    "olmo": r"olmo",
    "granite": r"granite",
    "falcon": r"falcon",
    "yi": r"(?<![a-z])yi(?![a-z])",
}
"""Family to how it shows in a model's name."""


def families(name: str) -> set[str]:
    """The families that a model's name or address tells. Empty if it tells none, as `my-model` does.

    A distilled model tells two: `DeepSeek-R1-Distill-Qwen-7B`. Of an address, only owner and name count: a folder above them
    may be called anything.
    """
    named = "/".join(name.lower().rstrip("/").rsplit("/", 2)[-2:])
    return {family for family, pattern in FAMILIES.items() if re.search(pattern, named)}
