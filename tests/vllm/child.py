"""Runs a stage over a `LocalWorkspace` in a process of its own, for tests that kill it.

    python -m tests.vllm.child '{"root": ..., "kind": ..., "settings": ..., "inputs": ...}'

Rows are made durable four at a time. SIGTERM asks the stage to stop, as the runner does.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

from evolution_jobs.attempt.stop import StopRequest, stop_on_signals
from evolution_jobs.contract.errors import StageError, Terminated
from evolution_jobs.engines import vllm_engine
from evolution_jobs.libraries import set_library_defaults

from tests.support.stages.workspace import LocalWorkspace


def main(root: str, kind: Any, settings: dict[str, Any], inputs: dict[str, str]) -> int:
    """The exit code, as the runner has it."""
    set_library_defaults()
    logging.basicConfig(level=logging.INFO)
    vllm_engine.PART = 4
    workspace = LocalWorkspace(Path(root), kind, settings, inputs={name: Path(path) for name, path in inputs.items()})
    with stop_on_signals() as stop:
        workspace.check_stop = lambda: check(stop)  # type: ignore[method-assign]
        try:
            importlib.import_module(f"evolution_jobs.stages.{kind}").run(workspace)
        except StageError as error:
            logging.error("%s: %s", error.reason, error)
            return error.exit_code
    return 0


def check(stop: StopRequest) -> None:
    """Raise Terminated if the process was asked to stop."""
    if stop:
        raise Terminated


if __name__ == "__main__":
    sys.exit(main(**json.loads(sys.argv[1])))
