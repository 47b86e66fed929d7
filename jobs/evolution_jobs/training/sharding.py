"""A base model that no card can hold, spread over the ranks by FSDP2 (torch.distributed.fsdp.fully_shard).

Only the frozen weights of the base model are spread. The adapter stays whole on every rank, so its checkpoints, its
result and the sum of its gradients (`steps`) are as without sharding, and no gradient has to be spread. accelerate's
plugin would spread the adapter as well, which has less than a hundredth of the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ..contract.errors import PermanentError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


def shard(model: PeftModel, device: torch.device) -> None:
    """Leave on `device` this rank's part of the base model, a layer at a time; all ranks must call it.

    `model` is on the CPU, with its adapter. From then on all ranks must run it at the same time, by calling it and not
    its `forward`. Raises PermanentError `ShardingUnsupported` if transformers does not say what the model's layers are.
    """
    base = model.get_base_model()
    kinds = set(base._no_split_modules or ())
    layers = [module for module in base.modules() if type(module).__name__ in kinds]
    if not layers:
        raise PermanentError(
            "ShardingUnsupported", f"sharding: the layers of {type(base).__name__} are not known: set it to none"
        )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    adapter = {weight for weight in model.parameters() if weight.requires_grad}
    for module in (*layers, model):
        fully_shard(module, mesh=mesh, ignored_params=adapter)
    for weight in adapter:
        weight.data = weight.data.to(device)


def held_weights(model: PeftModel) -> int:
    """Frozen weights that this process holds."""
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    return sum((weight.to_local() if isinstance(weight, DTensor) else weight).numel() for weight in frozen)
