"""What kubectl asks of its plugin: the words that may follow `kubectl evo`."""

from __future__ import annotations

import io
import os
import shlex
import sys
from contextlib import redirect_stdout, suppress

from .main import app

FILES, NO_FILES = ":0", ":4"
"""What kubectl's completion reads in the last line (cobra's ShellCompDirective): names of files may follow, or not."""


def complete_for_kubectl() -> None:
    """`kubectl_complete-evo`: kubectl starts it with the words after `kubectl evo`, and reads the completions.

    Each is a line, with its help behind a tab; the last line says whether names of files may follow.
    """
    words = sys.argv[1:] or [""]
    # Fish's completions have the form that kubectl reads.
    os.environ |= {
        "_EVOLUTION_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": shlex.join(["evolution", *words]),
    }
    found = io.StringIO()
    with redirect_stdout(found), suppress(SystemExit):
        app(prog_name="evolution")
    lines = [line for line in found.getvalue().splitlines() if line]
    print("\n".join([*lines, NO_FILES if lines else FILES]))
