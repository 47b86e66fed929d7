"""Training state as files: safetensors and JSON, no pickle.

    adapter.safetensors     the adapter as it is being trained
    best.safetensors        SFT: the adapter with the lowest validation loss so far
    optimizer.safetensors   the state of the optimiser for each weight
    optimizer.json          its settings, and the position of the learning-rate schedule
    trainer_state.json      steps, losses and early stopping (transformers.TrainerState)

No random state: every step seeds its own (steps.SharesSteps).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from .adapter import Tensors, adapter_tensors

ADAPTER = "adapter.safetensors"
BEST = "best.safetensors"
OPTIMIZER = "optimizer.safetensors"
SETTINGS = "optimizer.json"


def write_checkpoint(directory: Path, model: PeftModel, best: Tensors | None, optimizer: Any, schedule: Any) -> None:
    """Write everything except the trainer's own state into an empty directory."""
    save_file(adapter_tensors(model), directory / ADAPTER)
    if best is not None:
        save_file(best, directory / BEST)
    state = optimizer.state_dict()
    kept = {f"{number}.{name}": value for number, values in state["state"].items() for name, value in values.items()}
    save_file({name: value.cpu().contiguous() for name, value in kept.items()}, directory / OPTIMIZER)
    settings = {"param_groups": state["param_groups"], "schedule": schedule.state_dict()}
    (directory / SETTINGS).write_text(json.dumps(settings), "utf-8")


def read_adapter(directory: Path, model: PeftModel) -> None:
    """Load the checkpoint's weights into the adapter `default` only: `ref` stays as it is."""
    set_peft_model_state_dict(model, load_file(directory / ADAPTER), adapter_name="default")


def read_best(directory: Path) -> Tensors | None:
    """The adapter with the lowest validation loss so far."""
    path = directory / BEST
    return load_file(path) if path.exists() else None


def read_optimizer(directory: Path, optimizer: Any, schedule: Any) -> None:
    """Restore the optimiser and the learning-rate schedule."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(directory / OPTIMIZER).items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    settings = json.loads((directory / SETTINGS).read_text("utf-8"))
    optimizer.load_state_dict({"state": state, "param_groups": settings["param_groups"]})
    schedule.load_state_dict(settings["schedule"])
