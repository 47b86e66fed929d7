"""How SFT and DPO cut their steps into passes: the layout of a pass, its rows, and what trl's trainers are told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ..contract.settings import DpoSettings, SftSettings
from ..contract.workspace import Workspace
from ..models.load import placement
from .encoding import IGNORED
from .forward import Layout, best_layout
from .ranks import Ranks
from .schedule import optimiser_steps, rows_a_pass, warmup_steps

if TYPE_CHECKING:
    from peft import PeftModel


def layout_of(
    model: PeftModel,
    settings: SftSettings | DpoSettings,
    workspace: Workspace,
    ids: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    *,
    pairs: bool,
) -> Layout:
    """The layout of the model's passes, tried on a few rows as `best_layout` says. Call it before a trainer is made."""
    device = placement(settings.precision)[0]
    tried = [
        pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=padding).to(device)
        for rows, padding in ((ids, 0), (labels, IGNORED))
    ]
    sharded = model if workspace.spec.ranks.sharded else None
    return best_layout(model.get_base_model(), *tried, pairs=pairs, sharded=sharded)


def arguments(
    settings: SftSettings | DpoSettings,
    seed: int,
    scratch: Path,
    layout: Layout,
    packed: Sequence[int],
    padded: Sequence[int],
) -> dict[str, Any]:
    """Arguments of both SFTConfig and DPOConfig.

    `packed` and `padded` are as `rows_a_pass` wants them, of all epochs: the trainer sees them as one.

    An optimiser step takes batch_size x gradient_accumulation rows on any device and any number of ranks. A CPU takes
    them one by one: batches make it no faster, need padding, and four 512-token rows of a model of 135M parameters hold
    7 GiB of activations.
    """
    device, dtype = placement(settings.precision)
    a_step = settings.batch_size * settings.gradient_accumulation
    steps = optimiser_steps(len(packed), settings.batch_size, settings.gradient_accumulation)
    together = settings.batch_size
    if layout.packed:
        together = rows_a_pass(packed, padded, settings.batch_size, settings.gradient_accumulation)
    batch = 1 if device.type == "cpu" else Ranks().share(a_step, together)
    accumulation = a_step // batch
    return {
        "output_dir": str(scratch / "trainer"),
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "optim": "adamw_torch",
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if settings.scheduler == "constant" else settings.scheduler,
        "warmup_steps": warmup_steps(settings.warmup_ratio, steps),
        "max_length": None,
        "seed": seed,
        "use_cpu": device.type == "cpu",
        "bf16": dtype == torch.bfloat16,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "dataloader_pin_memory": device.type != "cpu",
        "save_strategy": "steps",
        "save_steps": settings.checkpoint_steps,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
    }
