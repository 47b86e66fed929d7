"""Which engine runs the model. Pure but for the look at what is installed."""

from __future__ import annotations

import importlib.util
from typing import Literal, NamedTuple

from ..contract.errors import PermanentError
from ..contract.settings import EngineChoice


class Chosen(NamedTuple):
    """An engine and why it was taken."""

    engine: Literal["transformers", "vllm"]
    why: str


def vllm_installed() -> bool:
    """Whether this environment has vLLM. Does not import it."""
    return importlib.util.find_spec("vllm") is not None


def choose(wanted: EngineChoice, installed: bool, gpu: bool, block: str, *, quantised: bool = False) -> Chosen:
    """The engine for a setting, by whether vLLM is `installed` and the process has a `gpu`.

    `block` is the stage's block of the run file, for messages. A base model that is `quantised` as it is loaded runs in
    transformers only, because each engine would make other weights of it.

    Raises PermanentError if the setting is vllm: `DependencyMissing` without it, `EngineUnsupported` for such a model.
    """
    if wanted == "transformers":
        return Chosen("transformers", f"{block}.engine says so")
    if wanted == "vllm":
        if not installed:
            raise PermanentError(
                "DependencyMissing",
                f"{block}.engine is vllm, but vLLM is not installed here: take the image with vLLM (images/vllm), or set "
                f"{block}.engine: transformers",
            )
        if quantised:
            raise PermanentError(
                "EngineUnsupported",
                f"{block}.engine is vllm, which does not run a model with baseModel.quantization: set {block}.engine: "
                "transformers",
            )
        return Chosen("vllm", f"{block}.engine says so")
    if quantised:
        return Chosen("transformers", "baseModel.quantization is set")
    if not installed:
        return Chosen("transformers", "vLLM is not installed")
    if not gpu:
        return Chosen("transformers", "there is no GPU")
    return Chosen("vllm", "it is installed and there is a GPU")
