"""The required settings of each kind of stage."""

from __future__ import annotations

from typing import Any

PREPARE = {
    "seedData": [{"uri": "hf://owner/dialogues", "format": "esconv"}],
    "baseModel": {"uri": "package://model"},
}


def least_settings(kind: str) -> dict[str, Any]:
    """Only prepare and prewarm have settings without a default."""
    return {"prepare": PREPARE, "prewarm": {"volume": "pvc://models"}}.get(kind, {})
