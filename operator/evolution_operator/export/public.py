"""What the public sees of addresses and settings: no path, no bucket, no endpoint and no Secret. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

LEFT_OUT = re.compile(r"pod|url|endpoint|region|\w*[sS]ecret")
"""Names of settings that say where something is, or who may reach it."""
PRIVATE = ("file://", "s3://", "pvc://")


def shown_uri(uri: str) -> str:
    """An address for the public: a hub's as it is, of others the last part of the path."""
    if uri.startswith(("hf://", "package://")):
        return uri
    return PurePosixPath(unquote(urlsplit(uri).path)).name or urlsplit(uri).scheme


def public(value: Any) -> Any:
    """A JSON value without settings that are private to the user, and with addresses as `shown_uri` writes them."""
    if isinstance(value, Mapping):
        return {name: public(inner) for name, inner in value.items() if not LEFT_OUT.fullmatch(name)}
    if isinstance(value, list):
        return [public(each) for each in value]
    return shown_uri(value) if isinstance(value, str) and value.startswith(PRIVATE) else value
