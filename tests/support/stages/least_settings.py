"""The required settings of each kind of stage."""

from __future__ import annotations

from typing import Any

PREPARE = {
    "seedData": [{"uri": "hf://owner/dialogues", "format": "esconv"}],
    "baseModel": {"uri": "package://model"},
}

JUDGE = {"url": "http://judge:8000/v1", "model": "large"}


def least_settings(kind: str) -> dict[str, Any]:
    """Only prepare, prewarm and judge have settings without a default."""
    given = {"prepare": PREPARE, "prewarm": {"volume": "pvc://models"}, "judge": JUDGE}
    return given.get(kind, {})
