"""Messages to the user for faults that pydantic has found."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from evolution_jobs.contract.addresses import Kind, advice
from pydantic_core import ErrorDetails

from .quantities import QUANTITY, no_quantity

UNKNOWN_FIELD = "unknown field"
"""How the message of an unknown field begins."""

_EXPECTED = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "literal_error": "must be {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must not be empty",
    "string_too_long": "takes at most {max_length} characters",
    "too_short": "needs at least {min_length} entry",
    "too_long": "takes at most {max_length} entries",
}
"""pydantic's error type to what was expected instead, with the error's context filled in."""

SOURCE_URI = r"^(file|s3|hf)://.+"
MODEL_URI = r"^(hf|s3|file|pvc|package)://.+"
PATTERNS = {
    SOURCE_URI: "must start with file://, s3:// or hf://",
    MODEL_URI: "must start with hf://, s3://, file://, pvc:// or package://",
    r"^(file|s3)://.+": "must start with file:// or s3://",
    r"^https?://.+": "must start with http:// or https://",
    r"^https?://[^\s?#]+$": "must start with http:// or https:// and have no blank, ? or #",
    r"^https?://[^\s?#@]+$": "must start with http:// or https:// and have no blank, ?, # or @",
    r"^[0-9a-f]{64}$": "must be a SHA-256 digest of 64 digits (0-9, a-f)",
    r"^(Always|IfNotPresent|Never)$": "must be Always, IfNotPresent or Never",
    QUANTITY: "must be a Kubernetes quantity, such as 4, 500m or 32Gi",
    r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$": "must be of letters, digits, -, _ and . only, and start and end with a letter or digit",
    r"^[-._a-zA-Z][-._a-zA-Z0-9]*$": "must be of letters, digits, -, _ and . only, and not start with a digit",
    r"^/[^:]*$": "must be an absolute path without a colon",
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$": "must be of a-z, 0-9 and - only, and start and end with a letter or digit",
    r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$": "must be of a-z, 0-9, - and . only, and start and end with a letter or digit",
    r"^[A-Za-z][A-Za-z0-9_]*$": "must be of letters, digits and _ only, and start with a letter",
    r"^[a-z][a-z0-9_]*$": "must be of a-z, 0-9 and _ only, and start with a letter",
    r"^[^\r\n]+$": "must be one line",
    r"^\S([^\r\n\t]*\S)?$": "must be one line without blanks around it",
}
"""The resource's patterns in words."""

_ADDRESSES: dict[str, Kind] = {SOURCE_URI: "dataset", MODEL_URI: "model"}
"""Patterns of addresses, with what the address is of."""
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@|(?<=\?).*", re.DOTALL)
"""The parts of a web address that may hold a password or a signature."""

_SILENT = frozenset({"string_too_long", "string_too_short", "too_short", "too_long"})
"""Errors that need no value in their message."""


def explain(errors: list[ErrorDetails], written: str | None = None, secret: bool = False) -> str:
    """One message for the errors of one value. Several errors are the alternatives of a union.

    `written` is the value as the file has it, if it is not text there. A value that may be a secret is not repeated.
    """
    first = errors[0]
    if first["type"] == "missing":
        return "is required"
    value = first["input"]
    if first["type"] == "string_pattern_mismatch" and first["ctx"]["pattern"] == QUANTITY:
        return no_quantity(value)
    expected = [_expected(error) for error in errors]
    text = " or ".join([expected[0], *(more.removeprefix("must be ") for more in expected[1:])])
    if first["type"] == "string_type" and isinstance(value, bool | int | float):
        return f"{text}: {_put_in_quotes(value, None if secret else written, secret)}"
    if secret or first["type"] in _SILENT:
        return text
    return f"{text}, not {_shown(value)}{_advised(first)}"


def must_be_text(value: Any, written: str | None) -> str:
    """The message for a value that must be text and is not; `written` is the value as the file has it."""
    if isinstance(value, bool | int | float):
        return f"must be text: {_put_in_quotes(value, written)}"
    return f"must be text, not {_shown(value)}"


def _put_in_quotes(value: bool | int | float, written: str | None, secret: bool = False) -> str:
    """What to do with an unquoted scalar. YAML reads the commit 72225e2 as 7222500.0, which would only confuse."""
    if written is None and not secret and not (isinstance(value, float) and value.is_integer()):
        written = _shown(value)
    return f"put {written or 'it'} in quotes"


def unknown_field(name: str, known: Iterable[str]) -> str:
    """The message for an unknown field, with the field that was probably meant."""
    plain = {field.lower(): field for field in known}
    close = get_close_matches(name.replace("_", "").replace("-", "").lower(), plain, n=1)
    if close:
        return f"{UNKNOWN_FIELD}; did you mean {plain[close[0]]}?"
    return f"{UNKNOWN_FIELD}; remove it (known here: {', '.join(plain.values())})"


def _advised(error: ErrorDetails) -> str:
    """What to write instead of an address of another tool."""
    kind = _ADDRESSES.get(error.get("ctx", {}).get("pattern", ""))
    advised = advice(error["input"], kind) if kind and isinstance(error["input"], str) else None
    return f": {advised}" if advised else ""


def _expected(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if error["type"] == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], f"must match {context['pattern']}")
    if error["type"] not in _EXPECTED:
        return error["msg"]
    bounds = {name: f"{bound:g}" if isinstance(bound, float) else bound for name, bound in context.items()}
    return _EXPECTED[error["type"]].format(**bounds)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(_CREDENTIALS.sub("...", value) if isinstance(value, str) and "://" in value else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
