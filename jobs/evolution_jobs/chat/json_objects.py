"""JSON in chats: what a model is given to read, and the objects in what it says."""

from __future__ import annotations

import json
from typing import Any

from .thoughts import without_thoughts


def json_objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in a text without its think blocks, in order, none within another.

    A model may think aloud, write a sentence before them, or put a fence around.
    """
    said = without_thoughts(text).rest
    # A model may break a line within a string.
    decoder, found, start = json.JSONDecoder(strict=False), list[dict[str, Any]](), said.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(said, start)
            found.append(value)
        except (ValueError, RecursionError):
            end = start + 1
        start = said.find("{", end)
    return found


def json_text(value: Any) -> str:
    """The value as JSON in which no text can be read as a control token, such as `<|im_end|>`."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")
