"""What vLLM is told: arguments of its engine and of each request. Pure, and without vLLM, so that each is tested fast."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from ..contract.errors import PermanentError
from ..contract.settings import EvaluationSettings, RefinementSettings, SamplingSettings
from ..models.load import Location
from .base import Request

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM has kernels for (its MaxLoRARanks, the same from 0.19 to 0.33)."""
PACKED = {"qkv_proj": {"q_proj", "k_proj", "v_proj"}, "gate_up_proj": {"gate_proj", "up_proj"}}
"""Layers that vLLM joins to one, by its name for them. Older versions look adapted layers up by this name only."""
SCORING = {"max_num_batched_tokens": 1024, "max_num_seqs": 256}
"""Limits where likelihoods are asked for: vLLM makes log-probabilities of a whole vocabulary for every prompt token of a
step, outside the memory that it has set aside. At 128,256 tokens and some 10 bytes each they take 1.3 GB."""
UNPENALISED = "unpenalised"
"""Name under which a request carries the tokens that its repetition penalty leaves alone."""
CLOSE_AT = "close_at"
"""Name under which a request that follows a schema carries the tokens, prompt included, from which on it is closed."""
QUOTES = "evolution_quotes"
"""Name under which vLLM's configuration carries the tokens that close a string."""


class Adapter(NamedTuple):
    """What vLLM must know of a LoRA adapter before it loads the model."""

    directory: Path
    rank: int
    """The highest of its layers."""
    layers: frozenset[str]
    """Last part of the names of the adapted layers: `q_proj`."""


def read_adapter(directory: Path) -> Adapter:
    """An adapter's rank and layers. Raises PermanentError (`AdapterIncomplete`) if a file cannot be read."""
    try:
        config = json.loads((directory / "adapter_config.json").read_text("utf-8"))
        ranks = [int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())]
        with safe_open(directory / "adapter_model.safetensors", "np") as file:
            names = [name.split(".lora_")[0] for name in file.keys() if ".lora_" in name]  # noqa: SIM118 -- no mapping
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise PermanentError("AdapterIncomplete", f"the adapter in {directory} cannot be read: {error}") from error
    return Adapter(directory, max(ranks), frozenset(name.rpartition(".")[2] for name in names))


def max_lora_rank(rank: int) -> int:
    """The least rank that vLLM has kernels for and that is no lower. Raises PermanentError (`EngineUnsupported`)."""
    found = next((each for each in RANKS if each >= rank), None)
    if found is None:
        raise PermanentError(
            "EngineUnsupported",
            f"the adapter has rank {rank}, and vLLM supports ranks up to {RANKS[-1]}: set engine: transformers",
        )
    return found


def longest_needed(settings: SamplingSettings) -> int:
    """Tokens of the longest prompt and answer that a stage's settings allow."""
    profile = 0
    if isinstance(settings, RefinementSettings):
        profile = settings.max_profile_tokens
    elif isinstance(settings, EvaluationSettings) and settings.profile:
        profile = settings.profile.max_new_tokens
    return settings.max_prompt_tokens + max(settings.max_new_tokens, profile)


def model_length(settings: SamplingSettings, positions: int | None, others: Sequence[SamplingSettings] = ()) -> int:
    """`max_model_len` for a model with so many positions (None: no limit): what all settings need, and no more."""
    # One more than needed: to score a passage, vLLM wants to sample a token after it.
    limits = (max(map(longest_needed, (settings, *others))) + 1, positions, settings.vllm.max_model_length)
    return min(limit for limit in limits if limit is not None)


def engine_arguments(
    location: Location,
    settings: SamplingSettings,
    *,
    length: int,
    dtype: str,
    adapter: Adapter | None,
    quotes: Sequence[int],
    scores: bool,
    gpu: bool,
) -> dict[str, Any]:
    """Arguments of `vllm.EngineArgs`. `quotes` are the tokens that close a string; `scores`: whether likelihoods will be
    asked for.
    """
    arguments: dict[str, Any] = {
        "model": location.name,
        "revision": location.revision,
        "tokenizer_revision": location.revision,
        "load_format": "safetensors",
        "trust_remote_code": False,
        "dtype": dtype,
        "max_model_len": length,
        "gpu_memory_utilization": settings.vllm.gpu_memory_utilization,
        "tensor_parallel_size": settings.vllm.tensor_parallel,
        "enable_prefix_caching": True,
        # Sampling is what the spec says, whatever the model's own generation config recommends.
        "generation_config": "vllm",
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "disable_log_stats": True,
        "additional_config": {QUOTES: list(quotes)},
    }
    if not gpu:
        arguments |= {
            # Compiling takes minutes, and saves less than that.
            "enforce_eager": True,
            # vLLM cannot wind a CPU's random numbers back, which a seeded row needs whose prompt is computed in pieces.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(2048, length),
        }
    if adapter:
        arguments |= {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": max_lora_rank(adapter.rank),
            # Without this list vLLM prepares every layer, the output head too, and then cannot score prompts on a CPU.
            "lora_target_modules": sorted(adapted_layers(adapter.layers)),
        }
    return arguments | (SCORING if scores and gpu else {})


def adapted_layers(layers: Iterable[str]) -> set[str]:
    """The adapted layers and those that vLLM joins them to."""
    named = set(layers)
    return named | {joined for joined, parts in PACKED.items() if named & parts}


def sampling_arguments(
    request: Request, prompt: Sequence[int], stops: frozenset[int], reserve: int = 0
) -> dict[str, Any]:
    """Arguments of `vllm.SamplingParams` for a request, but for its schema itself, which vLLM wants in a type of its own.

    `reserve` is the number of tokens that an object of the schema needs to be closed.
    """
    sampling = request.sampling
    arguments: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
        "seed": request.seed,
        "max_tokens": request.max_new_tokens,
        "stop_token_ids": sorted(stops),
        "detokenize": False,
    }
    extra: dict[str, Any] = {}
    if sampling.repetition_penalty != 1 and (ends := sorted(stops.intersection(prompt))):
        extra[UNPENALISED] = ends
    if request.schema is not None:
        extra[CLOSE_AT] = len(prompt) + request.max_new_tokens - reserve
    return arguments | ({"extra_args": extra} if extra else {})


def scoring_arguments() -> dict[str, Any]:
    """Arguments of `vllm.SamplingParams` that return the log-probability of each prompt token."""
    # vLLM must sample at least one token. With 0, it adds no others to the prompt's own.
    return {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}
