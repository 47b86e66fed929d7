"""Defaults of the libraries' own environment variables, and how a missing library is installed."""

from __future__ import annotations

import logging
import os

DEFAULTS = {
    # A thread that spins while it waits for another slows that one down if they share a core, and training with it
    # (bench/threads.py). Asleep, it costs a few percent on cores of its own.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # The runner reports progress; a log shows no progress bars.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    # In the stage's own process. A process beside it would outlive a stage that is killed, and keep its GPU.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Standard output is for the runner's own lines.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    # Arrow's own allocator keeps what it has freed: 40 MiB once a data set of the hub has been read.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""Variables that a process sets unless its environment has them."""


def set_library_defaults() -> None:
    """Set the defaults. Must come before the first import of torch, which reads them then."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # peft imports it for every adapter, and it warns of kernels that only a quantised model would use.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def install(extra: str) -> str:
    """The command that installs an extra of pyproject.toml, for errors. No registry has the package yet."""
    return f"pip install '.[{extra}]' in evolution-operator's repository"
