"""One model in vLLM for the whole session: loading takes longer than all else."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from evolution_jobs.contract.settings import EvaluationSettings
from evolution_jobs.engines.transformers_engine import TransformersEngine
from evolution_jobs.libraries import set_library_defaults
from evolution_jobs.models.load import load_model
from evolution_jobs.training.adapter import save_adapter
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

if TYPE_CHECKING:
    from evolution_jobs.engines.vllm_engine import VllmEngine

if importlib.util.find_spec("vllm") is None:  # pytest without a folder looks here, too
    collect_ignore_glob = ["test_*.py"]

# vLLM reads them when it is used.
set_library_defaults()
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

SETTINGS = {"maxPromptTokens": 512, "maxNewTokens": 32, "engine": "vllm"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker("vllm")


@pytest.fixture(scope="session")
def adapter(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter that changes the model a little, of a rank that vLLM must round up."""
    torch.manual_seed(0)
    config = LoraConfig(r=6, lora_alpha=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(load_model(small_model, None, "float32"), config)
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return save_adapter(model, tensors, None, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="session")
def vllm_engine(small_model: Path, adapter: Path) -> VllmEngine:
    from evolution_jobs.engines.vllm_engine import VllmEngine

    settings = EvaluationSettings.model_validate(SETTINGS)
    return VllmEngine.load(small_model, adapter, settings, "evaluation", scores=True)


@pytest.fixture(scope="session")
def transformers_engine(small_model: Path, adapter: Path) -> TransformersEngine:
    return TransformersEngine.load(small_model, adapter, "float32", 4096)
