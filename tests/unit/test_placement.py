"""Where a model runs: on the GPU that the stage was given, or nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from evolution_jobs.contract.errors import TransientError
from evolution_jobs.contract.stage import StageKind
from evolution_jobs.contract.variables import GPUS_VARIABLE
from evolution_jobs.models.load import placement

from tests.support.stages.workspace import LocalWorkspace


def test_a_stage_that_was_given_a_gpu_does_not_crawl_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(GPUS_VARIABLE, "1")
    with pytest.raises(TransientError, match="driver") as caught:
        placement("auto")
    assert caught.value.reason == "GpuMissing"


@pytest.mark.parametrize("given", [None, "0"])
def test_without_a_gpu_the_cpu_computes_in_float32(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv(GPUS_VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(GPUS_VARIABLE, given)
    assert placement("auto") == (torch.device("cpu"), torch.float32)


TWO_GPUS = {"engine": "vllm", "vllm": {"tensorParallel": 2}}


@pytest.mark.parametrize(
    ("kind", "settings", "given", "seen"),
    [
        ("sft", {}, {}, "0"),
        ("generate", {}, {}, "0"),
        ("generate", TWO_GPUS, {}, "0,1"),
        ("generate", TWO_GPUS, {"CUDA_VISIBLE_DEVICES": "2"}, "2"),
    ],
)
def test_a_stage_sees_the_gpus_that_it_uses_unless_told_which(
    tmp_path: Path, kind: StageKind, settings: dict[str, object], given: dict[str, str], seen: str
) -> None:
    script = (
        "import os, sys; from evolution_jobs.__main__ import main; main(); print(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"} | given
    # The stage itself fails at once: its key is none.
    spec = LocalWorkspace(tmp_path, kind, settings).spec.model_dump_json(by_alias=True)
    done = subprocess.run(
        [sys.executable, "-c", script, kind, "--spec", "-"],
        input=spec,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == seen, done.stderr
