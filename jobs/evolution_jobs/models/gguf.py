"""Converts a GGUF model to a Hugging Face directory, in a separate process.

    python -m evolution_jobs.models.gguf MODEL.gguf DIRECTORY

transformers converts. It needs torch and holds the whole model twice in float32: 0.6 GiB and 8 bytes a parameter, so 1.6
GiB for SmolLM2-135M. A separate process frees that memory at its end, and starts only if a model needs conversion.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from ..attempt.failures import failure_report
from ..contract.errors import EXIT_PERMANENT, EXIT_TRANSIENT, PermanentError, TransientError
from ..libraries import set_library_defaults
from ..redaction import words_of


def convert_gguf(path: Path, directory: Path, where: str) -> None:
    """Write a GGUF model as a directory in float32: tokenizer, chat template, config, safetensors.

    Quantised weights are dequantised. Every message begins with `where`. Raises PermanentError `ModelMalformed`,
    `ModelIncomplete`, or TransientError `Killed`, `InternalError`.
    """
    command = [sys.executable, "-P", "-m", __name__, str(path), str(directory)]
    # If this process ends in any way, the other reads the end of its standard input and ends, too.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.read()
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code in (EXIT_PERMANENT, EXIT_TRANSIENT):
        fault = json.loads(words.splitlines()[-1])
        kind = PermanentError if code == EXIT_PERMANENT else TransientError
        raise kind(fault["reason"], f"{where}: {fault['message']}")
    if code == -signal.SIGKILL:
        need = "if memory was short: it needs 0.6 GiB and 8 bytes a parameter"
        raise TransientError("Killed", f"{where}: {path.name}: its conversion was killed (SIGKILL); {need}")
    if code:
        raise TransientError(
            "InternalError", f"{where}: {path.name}: its conversion ended with code {code}; see the log"
        )


def convert(path: Path, directory: Path) -> None:
    """Convert in this process. Raises PermanentError `ModelMalformed`, `ModelIncomplete`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**place)
        read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, OverflowError, struct.error) as error:
        raise PermanentError("ModelMalformed", f"{path.name} cannot be read: {words_of(error)}") from error
    if not tokenizer.chat_template:
        raise PermanentError("ModelIncomplete", f"{path.name} has no chat template")
    # A model read from GGUF counts as quantised and cannot be saved. A plain model with its weights can.
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    model.save_pretrained(directory)
    # transformers notes how it was called. The digest of a model must not depend on HF_HUB_OFFLINE.
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.save_pretrained(directory)


def main(path: str, directory: str) -> int:
    """Convert; returns the exit code. An error is written to standard output as one JSON document."""
    # Ctrl-C reaches the whole process group, but the stage decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_library_defaults()
    try:
        convert(Path(path), Path(directory))
    except Exception as error:  # noqa: BLE001 -- the process's edge: whatever it was, the parent reports it
        report, code = failure_report(None, error)
        print(json.dumps({"reason": report.reason, "message": report.message}))  # noqa: T201 -- the parent reads it
        return code
    return 0


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
