"""What a user is told if vLLM fails. Pure."""

from __future__ import annotations

from ..contract.errors import StageError, TransientError, causes

TOO_LARGE = ("No available memory for the cache blocks", "KV cache is needed")
"""vLLM's words if what it was given does not hold the weights and one sequence."""
TAKEN = ("less than desired GPU memory utilization", "out of memory", "can't allocate memory")
"""Words of vLLM, CUDA and torch if the device has not as much memory as was asked for. Errors of other processes, one for
each GPU, arrive as their words only."""


def out_of_memory(error: BaseException, block: str) -> StageError | None:
    """The error for memory that ran out, with the setting of the stage's `block` to change; None for any other error."""
    for cause in causes(error):
        words = str(cause)
        if any(each in words for each in TOO_LARGE):
            return TransientError(
                "OutOfMemory",
                f"out of memory: the model's weights and the attention states of one sequence do not fit; raise "
                f"{block}.vllm.gpuMemoryUtilization, lower {block}.vllm.maxModelLength, or set "
                f"{block}.vllm.tensorParallel to use several GPUs",
            )
        if any(each in words for each in TAKEN) or type(cause).__name__ == "OutOfMemoryError":
            return TransientError(
                "OutOfMemory",
                f"out of memory: lower {block}.vllm.gpuMemoryUtilization, or end what else uses the GPU",
            )
    return None
