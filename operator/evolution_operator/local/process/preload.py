"""Imported once by the warm server, so that each stage's process is forked with its libraries already there.

Importing torch, transformers and trl takes 5 to 10 seconds; a run of two iterations has eleven stages. Nothing here may
start threads or touch a GPU: neither survives a fork.
"""

import importlib
import os
import threading

from evolution_jobs.libraries import set_library_defaults
from evolution_jobs.redaction import redact_output

# Libraries ask whether there is a GPU while they are imported. By default torch starts CUDA for the answer.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
set_library_defaults()
# Before the libraries keep the stream for their own logs.
redact_output()

_HEAVY = {
    "torch": (),
    "transformers": ("AutoModelForCausalLM", "AutoTokenizer", "Trainer"),
    "transformers.models.llama.modeling_llama": (),
    "peft": ("PeftModel", "LoraConfig"),
    "trl": ("DPOTrainer", "SFTTrainer"),
    "datasets": (),
    "xgrammar": (),
    "evolution_jobs.runner": (),
}
"""Modules, and the names whose lazy import has to be triggered."""

try:
    # tqdm's own lock is a semaphore of the whole machine, which processes that end at once would leak.
    importlib.import_module("tqdm").tqdm.set_lock(threading.RLock())
except ImportError:
    pass
for _module, _names in _HEAVY.items():
    try:
        _loaded = importlib.import_module(_module)
        for _name in _names:
            getattr(_loaded, _name)
    except Exception:  # noqa: BLE001, S112 -- a library may raise anything
        # A stage that needs it will say so itself, with its own name and remedy.
        continue
