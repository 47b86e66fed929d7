"""Measure how fast a wrong file is refused, and how much memory prepare needs.

    python bench/prepare.py [DATA.jsonl]

Prints how many seconds `evolution run` takes for a data set with a truncated last line, and how many seconds it takes in
the same round to import the libraries of the other stages. Then prints prepare's peak memory for the whole data set. DATA
is in ESConv's layout. The default is the example's data.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.stages.model_directory import model_directory

ROUNDS = 3
EXAMPLE = Path(__file__).parents[1] / "examples/quickstart/data/seed.jsonl"
EVOLUTION = str(Path(sys.executable).with_name("evolution"))
IMPORTS = "import torch, transformers, peft, trl; transformers.Trainer, trl.SFTTrainer, trl.DPOTrainer"
PEAK = """
import re, sys
from evolution_jobs.stages import prepare
from tests.support.stages.workspace import LocalWorkspace
from pathlib import Path
prepare.run(LocalWorkspace(Path(sys.argv[1]), "prepare", {
    "seedData": [{"uri": Path(sys.argv[2]).as_uri(), "format": "esconv"}], "baseModel": {"uri": sys.argv[3]}}))
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10)
"""


def manifest(directory: Path, data: Path) -> Path:
    """A run file for this data set."""
    model = model_directory(directory / "model")
    document = {
        "apiVersion": "evolution.run/v1alpha1",
        "kind": "EvolutionRun",
        "metadata": {"name": "bench"},
        "spec": {
            "baseModel": {"uri": model.as_uri()},
            "storage": {"uri": (directory / "store").as_uri()},
            "data": {"seed": [{"uri": data.as_uri(), "format": "esconv"}]},
        },
    }
    path = directory / "run.yaml"
    path.write_text(json.dumps(document))
    return path


def seconds(command: list[str], code: int, **environment: str) -> float:
    """Seconds that a command takes, which must exit with this code."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == code, done.stdout + done.stderr
    return time.perf_counter() - started


def main() -> None:
    """Measure time and memory."""
    data = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else EXAMPLE
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        cut = directory / "cut.jsonl"
        cut.write_bytes(data.read_bytes()[:-100])
        run = [EVOLUTION, "run", "-f", str(manifest(directory, cut))]
        refusals, imports = [], []
        for _ in range(ROUNDS):
            refusals.append(seconds(run, 1, XDG_STATE_HOME=str(directory / "state")))
            imports.append(seconds([sys.executable, "-c", IMPORTS], 0))
        print(
            f"refused after {statistics.median(refusals):.1f} s; importing the libraries takes "
            f"{statistics.median(imports):.1f} s"
        )
        command = [sys.executable, "-c", PEAK, str(directory / "work"), str(data), (directory / "model").as_uri()]
        root = Path(__file__).parents[1]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        print(f"prepare takes {done.stdout.strip()} MiB for {data.name}")


if __name__ == "__main__":
    main()
