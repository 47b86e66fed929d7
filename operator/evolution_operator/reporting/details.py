"""Reads values of a manifest's details, whose form is not checked: another version may have written another one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def text(value: Any) -> str:
    """The value if it is a text, or else an empty one."""
    return value if isinstance(value, str) else ""


def texts(value: Any) -> list[str]:
    """The texts of a list."""
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, or else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The mappings of a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def numbers(values: Mapping[str, Any]) -> dict[str, int]:
    """The whole numbers of a mapping, but for zeros."""
    return {name: each for name, each in values.items() if isinstance(each, int) and each}
