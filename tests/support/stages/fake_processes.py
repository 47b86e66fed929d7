"""Fake processes of stages: they end when and how a test says, and do their work with the real runner."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from evolution_jobs.contract.errors import Terminated
from evolution_jobs.contract.manifest import Report
from evolution_jobs.contract.stage import StageSpec
from evolution_jobs.contract.variables import TERMINATION_LOG_VARIABLE
from evolution_jobs.contract.workspace import Result, Workspace
from evolution_jobs.runner import Stage, run_stage
from evolution_operator.local.process.stage_process import StageProcess

from tests.support.stages import fake_stages

OUTPUTS = {"sft": ["adapter"], "reflect": ["pairs"], "dpo": ["adapter"], "evaluate": ["answers", "probes"]}


def compute(kind: str) -> Stage:
    """The code of a stage that writes a line of text for each of its outputs."""
    return {"prepare": _prepare, "generate": fake_stages.generate}.get(kind, _write)


def raising(error: BaseException) -> Callable[[str], Stage]:
    """The code of stages that fail."""

    def fail(_workspace: Workspace) -> Result:
        raise error

    return lambda _kind: fail


def _prepare(workspace: Workspace) -> Result:
    """The contexts depend on the source's edition, which the pins name. The other outputs do not."""
    edition = workspace.spec.settings.pins["source"]
    texts = dict.fromkeys(("train", "validation", "test"), "text\n")
    texts["contexts"] = "".join(f'{{"id": "{edition}-{number}"}}\n' for number in range(3))
    outputs = {name: workspace.scratch / f"{name}.jsonl" for name in texts}
    for name, path in outputs.items():
        path.write_text(texts[name])
    # fake_stages.generate reads `contexts.jsonl`.
    return Result(outputs=outputs, references={"model": "hf://owner/model@0123456789"})


def _write(workspace: Workspace) -> Result:
    spec = workspace.spec
    path = workspace.scratch / f"{spec.stage}.jsonl"
    path.write_text(f"{spec.key}\n")
    figures = {"distinct2": 0.5 + (spec.iteration or 0)} if spec.kind == "evaluate" else {}
    return Result(outputs=dict.fromkeys(OUTPUTS[spec.kind], path), metrics=figures)


@dataclass
class Process:
    """A fake process of this machine, alive until a test ends it."""

    spec: StageSpec
    report: Path
    channel: socket.socket
    gpu: str | None
    sentinel: socket.socket
    """The other end of its channel, readable at its end."""
    exitcode: int | None = None
    stop_requested: bool = False
    corrupt_input: str | None = None
    """Key of the input that it reported as missing or corrupt."""

    def terminate(self) -> None:
        """Ask it to stop. It runs until a test ends it."""
        self.stop_requested = True

    def kill(self) -> None:
        """End it at once."""
        self.end(-9)

    def join(self, _timeout: float | None = None) -> None:
        """Wait for its end. If it was asked to stop, it saves its state and exits."""
        if self.exitcode is None and self.stop_requested:
            self.work(raising(Terminated()))

    def print_line(self, fields: Mapping[str, object], kind: str = "progress") -> None:
        """Print a line of JSON, as a stage does."""
        self.channel.sendall(json.dumps({kind: fields}).encode() + b"\n")

    def close(self) -> None:
        """There is nothing to close."""

    def end(self, code: int) -> None:
        """End with this exit code."""
        self.exitcode = code
        self.channel.close()

    def work(self, stages: Callable[[str], Stage] = compute, code: int | None = None) -> None:
        """Run the stage to its end. A `code` is that of a signal that ends the process before it can report."""
        output = io.StringIO()
        with (
            mock.patch.dict(os.environ, {TERMINATION_LOG_VARIABLE: str(self.report)}),
            contextlib.redirect_stdout(output),
        ):
            exit_code = run_stage(self.spec, stages)
        with contextlib.suppress(BrokenPipeError):  # its driver is dead
            self.channel.sendall(output.getvalue().encode())
        if code is not None:
            self.report.unlink(missing_ok=True)
        else:
            corrupt = Report.model_validate_json(output.getvalue().splitlines()[-1]).corrupt
            self.corrupt_input = next((i.key for i in self.spec.inputs.values() if i.stage == corrupt), None)
        self.end(exit_code if code is None else code)


@dataclass
class Server:
    """A fake warm server, one for each driver. `began` is called with every new process."""

    began: Callable[[Process], None] = lambda process: None
    processes: list[Process] = field(default_factory=list)

    def start(
        self, spec: StageSpec, log: Path, report: Path, environment: Mapping[str, str], threads: int
    ) -> StageProcess:
        """Start a fake process."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        process = Process(spec, report, theirs, environment.get("CUDA_VISIBLE_DEVICES"), ours)
        self.began(process)
        self.processes.append(process)
        return StageProcess(process, ours, log, report)  # type: ignore[arg-type]

    def warm(self) -> None:
        """There is nothing to import."""

    def close(self) -> None:
        """There is nothing to close."""

    def alive(self) -> list[Process]:
        """Processes that have not ended."""
        return [process for process in self.processes if process.exitcode is None]
