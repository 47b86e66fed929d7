"""The `evolution` command: its subcommands, and how errors end it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import typer
from evolution_jobs.contract.credentials import tidy_environment
from evolution_jobs.contract.errors import StageError
from evolution_jobs.redaction import redact_output

from ..api.validation import RunFileError
from .chat import chat
from .cluster_commands import doctor, logs, retry, status
from .compare_commands import compare, score
from .dashboard import dashboard
from .exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from .experiment import app as experiment_app
from .export import export
from .figures import figures
from .file_commands import init, plan, run, validate
from .get import get
from .program import is_plugin, program_name
from .report import report
from .study import app as study_app
from .track import track
from .verify import sign, verify

app = typer.Typer(
    help="Let a dialogue model improve itself: SFT, then rounds of generate, reflect and DPO (arXiv 2505.16610).",
    no_args_is_help=True,
    # kubectl completes its plugins itself (`kubectl_complete-evo`).
    add_completion=not is_plugin(),
    pretty_exceptions_enable=False,
)

Command = Callable[..., Any]
PANELS: dict[str, tuple[Command, ...]] = {
    "Before a run": (init, doctor, validate, plan),
    "A run": (run, status, logs, retry, dashboard),
    "What a run has made": (report, get, chat, export, figures, track, verify, sign),
    "Which model is better": (compare, score),
}
"""The commands as help shows them."""

for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(experiment_app, name="experiment", rich_help_panel="Which model is better")
app.add_typer(study_app, name="study", rich_help_panel="Which model is better")


def main() -> None:
    """Entry point: a user's mistake becomes one message and an exit code, never a stack trace."""
    # The stages' processes inherit this environment.
    tidy_environment()
    redact_output()
    try:
        app(prog_name=program_name())
    except RunFileError as error:
        _fail_validation(error)
    except StageError as error:
        print(f"error: {error.reason}: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except BrokenPipeError:
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _fail_validation(error: RunFileError) -> None:
    """Print each fault on its own line as `PATH: message`, or with the file's name if it has no path; exit with 2."""
    if "json" in sys.argv[1:] or "--output=json" in sys.argv[1:]:
        faults = [{"path": fault.path, "message": fault.message} for fault in error.faults]
        print(json.dumps({"valid": False, "faults": faults}, ensure_ascii=False))
    for fault in error.faults:
        print(fault if fault.path else f"{error.source}: {fault}", file=sys.stderr)
    sys.exit(EXIT_USAGE)
