"""The JSON objects in what a model says: it may think aloud, write a sentence before, or put a fence around."""

from __future__ import annotations

import json
from typing import Any

from .thoughts import without_thoughts


def json_objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in a text without its think blocks, in order, none within another."""
    said = without_thoughts(text).rest
    decoder, found, start = json.JSONDecoder(), list[dict[str, Any]](), said.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(said, start)
            found.append(value)
        except (ValueError, RecursionError):
            end = start + 1
        start = said.find("{", end)
    return found
