"""Environment variables between whoever starts a stage's process and the libraries that it loads."""

from __future__ import annotations

import os

GPUS_VARIABLE = "EVOLUTION_GPUS"
"""How many GPUs the stage's process is given. Where torch then finds none, the stage fails."""

DEFAULTS = {
    # A thread that spins while it waits for another is in that one's way where cores are shared, and training takes
    # longer, how much depends on the neighbour (bench/threads.py); asleep it costs a few percent on cores of its own.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # A log is no terminal, and progress is told by the runner.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}
"""What holds unless the environment says otherwise."""


def settle() -> None:
    """Put the defaults in place: before torch is imported, which reads them then."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
