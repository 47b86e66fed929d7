"""Loads a model into vLLM, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import vllm
import xgrammar
from transformers import AutoConfig, GenerationConfig
from vllm.lora.request import LoRARequest
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.llm_engine import LLMEngine

from ..attempt.failures import DETERMINED
from ..contract.errors import PermanentError, StageError, TransientError
from ..contract.settings import SamplingSettings
from ..models.load import Location, load_tokenizer, locate, placement, require_adapter, require_weights, unloadable
from ..models.positions import longest
from ..redaction import words_of
from .chat import ChatTokens
from .grammar import quotes
from .vllm_arguments import engine_arguments, model_length, read_adapter
from .vllm_errors import out_of_memory
from .vllm_logits import processor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Loaded(NamedTuple):
    """A model in vLLM."""

    engine: LLMEngine
    tokens: ChatTokens
    adapter: LoRARequest | None
    """To be named with each sequence."""
    tokenizer: PreTrainedTokenizerBase
    length: int
    """Longest sequence of prompt and answer, in tokens."""


def load(
    reference: Path | str,
    adapter: Path | None,
    settings: SamplingSettings,
    block: str,
    *,
    scores: bool,
    others: Sequence[SamplingSettings] = (),
) -> Loaded:
    """A model directory or reference with its adapter. `scores`: whether it will be asked for likelihoods; `block` is the
    stage's block of the run file, for messages. Sequences may be as long as `settings` or any of `others` allow.

    Raises what `models.load` raises, PermanentError (`EngineUnsupported`) if vLLM cannot run this model or adapter
    here, and TransientError (`OutOfMemory`, `EngineFailed`).
    """
    location = locate(reference)
    if location.directory:
        require_weights(location.directory)
    if adapter is not None:
        require_adapter(adapter)
    read = read_adapter(adapter) if adapter else None
    device, dtype = placement(settings.precision)
    _require_devices(device, settings, block)
    tokenizer = load_tokenizer(reference)
    try:
        config = AutoConfig.from_pretrained(
            location.name, revision=location.revision or "main", trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise unloadable(location, "config", error) from error
    length = model_length(settings, longest(config.to_dict()), others)
    arguments = engine_arguments(
        location,
        settings,
        length=length,
        dtype=str(dtype).removeprefix("torch."),
        adapter=read,
        quotes=quotes(xgrammar.TokenizerInfo.from_huggingface(tokenizer).decoded_vocab),
        scores=scores,
        gpu=device.type == "cuda",
    )
    request = LoRARequest("adapter", 1, str(read.directory)) if read else None
    try:
        engine = _start(arguments)
        if request:
            engine.add_lora(request)
    except Exception as error:
        raise _load_error(location, error, block) from error
    generation = _generation(location.name, location.revision, config)
    return Loaded(engine, ChatTokens(tokenizer, generation, length), request, tokenizer, length)


def _start(arguments: dict[str, Any]) -> LLMEngine:
    # vLLM's own defaults for a program that has all its requests at the beginning.
    config = vllm.EngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
    config.model_config.logits_processors = [processor(config)]
    return LLMEngine.from_vllm_config(config, UsageContext.LLM_CLASS, disable_log_stats=True)


def _require_devices(device: torch.device, settings: SamplingSettings, block: str) -> None:
    asked = settings.vllm.tensor_parallel
    if device.type == "cuda" and asked > torch.cuda.device_count():
        raise PermanentError(
            "EngineUnsupported",
            f"{block}.vllm.tensorParallel is {asked}, and the process has {torch.cuda.device_count()} GPUs: give the "
            f"stage {asked} in {block}.pod.resources.limits, or lower it",
        )
    if device.type == "cpu" and not vllm.platforms.current_platform.is_cpu():
        raise PermanentError(
            "EngineUnsupported", f"this vLLM needs a GPU, and the process has none: set {block}.engine: auto"
        )


def _load_error(location: Location, error: Exception, block: str) -> StageError:
    if short := out_of_memory(error, block):
        return short
    if isinstance(error, OSError):
        return unloadable(location, "model", error)
    words = f"{type(error).__name__}: {words_of(error)}"
    # Errors of the GPU and its driver may pass.
    if not isinstance(error, DETERMINED):
        return TransientError("EngineFailed", f"vLLM did not start with {location.name}: {words}")
    message = f"vLLM cannot run {location.name}: {words}; set {block}.engine: transformers"
    return PermanentError("EngineUnsupported", message)


def _generation(name: str, revision: str | None, config: Any) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(name, revision=revision or "main")
    except OSError:  # it has none
        return GenerationConfig.from_model_config(config)
