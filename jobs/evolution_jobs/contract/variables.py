"""Names of the environment variables that a stage's process reads from whoever starts it."""

from __future__ import annotations

STAGE_SPEC_VARIABLE = "EVOLUTION_STAGE_SPEC"
"""File with the stage spec, if `--spec` names none."""

TERMINATION_LOG_VARIABLE = "EVOLUTION_TERMINATION_LOG"
"""File that takes the report, in place of Kubernetes' termination log."""

GPUS_VARIABLE = "EVOLUTION_GPUS"
"""GPUs that the process has been given. If there are some and torch finds none, the stage fails."""

STORAGE_PATIENCE_VARIABLE = "EVOLUTION_STORAGE_PATIENCE"
"""Seconds that a stage waits for a storage that has answered before and does not now. The default is 300."""

MODEL_CACHE_VARIABLE = "EVOLUTION_MODEL_CACHE"
"""Directory of the model cache, if the Pod has one."""

HUB_CACHE_VARIABLE = "HF_HUB_CACHE"
"""Directory of the hub's cache, as `huggingface_hub` calls it."""

NODE_VARIABLE = "EVOLUTION_NODE"
"""Name of the node on which a Pod of prewarm runs."""

SHARD_VARIABLE = "JOB_COMPLETION_INDEX"
"""Index of the shard, or of the node where several train together. Kubernetes sets it in the Pods of an Indexed Job."""

MASTER_ADDRESS_VARIABLE = "MASTER_ADDR"
"""Where several nodes train together: the name of the first one, as torch calls it."""

MASTER_PORT_VARIABLE = "MASTER_PORT"
"""The port there on which the nodes meet."""
