"""Environment variables between whoever starts a stage's process and the libraries that it loads."""

from __future__ import annotations

import os

from .errors import PermanentError

GPUS_VARIABLE = "EVOLUTION_GPUS"
"""How many GPUs the stage's process is given. Where torch then finds none, the stage fails."""

PATIENCE_VARIABLE = "EVOLUTION_STORAGE_PATIENCE"
"""Seconds for which a stage waits for a storage that has been there and does not answer; 300 where nothing is said."""

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
    # Arrow's own allocator keeps what it has freed: 40 MiB once a data set of the hub has been read.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""What holds unless the environment says otherwise."""


def settle() -> None:
    """Put the defaults in place: before torch is imported, which reads them then."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def storage_patience() -> float:
    """Seconds for which a stage waits for its storage. Raises PermanentError `SpecInvalid` where it is no number."""
    text = os.environ.get(PATIENCE_VARIABLE, "300")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not seconds >= 0:
        raise PermanentError("SpecInvalid", f"{PATIENCE_VARIABLE}: {text!r} is not a number of seconds; write 300, say")
    return seconds
