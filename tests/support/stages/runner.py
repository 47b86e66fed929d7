"""Runs stages of tests/support/stages/fake_stages.py in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.manifest import Report
from evolution_jobs.contract.stage import StageSpec
from evolution_jobs.runner import Stage, run_stage

from tests.support.stages import fake_stages


class Runner:
    """Runs stages as their processes would, and keeps their output."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.progress: list[dict[str, Any]] = []
        self.stderr = ""

    def __call__(self, spec: StageSpec, **stages: Stage) -> tuple[int, Report]:
        self._capsys.readouterr()
        code = run_stage(spec, fake_stages.stages(**stages))
        out, self.stderr = self._capsys.readouterr()
        *lines, last = out.splitlines()
        documents = [json.loads(line) for line in lines]
        self.progress = [document["progress"] for document in documents if "progress" in document]
        return code, Report.model_validate_json(last)

    def prepared(self, storage: Storage, **options: Any) -> dict[str, str]:
        """Content digests that prepare finds."""
        code, report = self(fake_stages.spec(storage, "prepare", **options))
        assert code == 0, report
        return report.contents

    def trained(self, storage: Storage) -> dict[str, str]:
        """Content digests, with prepare and sft done."""
        contents = self.prepared(storage)
        code, report = self(fake_stages.spec(storage, "sft", contents))
        assert code == 0, report
        return contents
