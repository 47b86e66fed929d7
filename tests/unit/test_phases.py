"""The seconds of an attempt by phase: what a manifest says of its start and its work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evolution_jobs.attempt.phases import Phases, process_age
from evolution_jobs.contract import volumes
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.workspace import Result, Workspace
from evolution_jobs.runner import run_stage
from evolution_jobs.store.manifests import read_manifest
from evolution_jobs.store.open import open_store

from tests.support.stages import fake_stages
from tests.support.stages.runner import Runner


def test_time_belongs_to_the_phase_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evolution_jobs.attempt.phases.process_age", lambda: 2.0)
    clock = iter([100.0, 101.0, 105.0, 105.5])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    phases = Phases()
    phases.end("import")
    phases.end("fetch")
    phases.end("load", at=105.25)
    phases.end("import")
    assert phases.seconds == {"import": 3.25, "fetch": 4.0, "load": 0.25}
    assert str(phases) == "import 3.2 s, fetch 4.0 s, load 0.2 s"


def test_a_pod_pulls_from_when_its_volumes_were_written_until_the_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "stage.json"
    spec.touch()
    written = time.time() - process_age() - 40
    os.utime(spec, (written, written))
    assert Phases(spec).seconds == {}, "no Pod"
    monkeypatch.setattr(volumes, "SPEC_DIRECTORY", tmp_path)
    assert Phases(spec).seconds["pull"] == pytest.approx(40, abs=1)
    os.utime(spec)
    assert Phases(spec).seconds == {"pull": 0.0}
    assert Phases(Path("-")).seconds == {}


def test_a_process_knows_its_age() -> None:
    program = (
        "import time; from evolution_jobs.attempt.phases import process_age as age; print(age(), time.process_time())"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    age, busy = map(float, ran.stdout.split())
    # It is as old as the time that it has computed, but for what several threads compute at once.
    assert 0 < age < 600
    assert age > busy - 0.5


def test_a_manifest_splits_the_attempt(storage: Storage, run: Runner) -> None:
    contents = run.prepared(storage)
    spec = fake_stages.spec(storage, "sft", contents)

    def sft(workspace: Workspace) -> Result:
        workspace.loaded()
        workspace.loaded()
        return fake_stages.sft(workspace)

    assert run_stage(spec, fake_stages.stages(sft=sft), Phases()) == 0
    manifest = read_manifest(open_store(storage), spec.key)
    assert manifest is not None
    assert set(manifest.phases) == {"import", "fetch", "load", "work"}
    assert manifest.seconds == pytest.approx(manifest.phases["load"] + manifest.phases["work"], abs=2e-3)
    assert manifest.phases["work"] > 0
    assert json.loads(manifest.model_dump_json(by_alias=True))["phases"] == manifest.phases


def test_a_stage_that_loads_nothing_has_no_such_phase(storage: Storage, run: Runner) -> None:
    run.prepared(storage)
    manifest = read_manifest(open_store(storage), fake_stages.spec(storage, "prepare").key)
    assert manifest is not None
    assert set(manifest.phases) == {"import", "fetch", "work"}
