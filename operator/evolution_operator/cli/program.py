"""The name under which the program was called: `evolution`, or `kubectl evo` as kubectl's plugin."""

from __future__ import annotations

import sys
from pathlib import Path

PLUGIN = "kubectl-evo"
"""Name of the program that kubectl starts for `kubectl evo`."""


def is_plugin() -> bool:
    """Whether kubectl has started this process."""
    return Path(sys.argv[0]).stem == PLUGIN


def program_name() -> str:
    """The program's name for help and hints."""
    return "kubectl evo" if is_plugin() else "evolution"
