"""`evolution`: run, plan, validate, status, retry, score, compare, study."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from evolution_jobs.contract.credentials import tidy_environment
from evolution_jobs.contract.errors import StageError, TransientError
from evolution_jobs.redaction import redact_output

from ..api.validation import RunFileError, load_run
from .console import open_console
from .options import Output, OutputOption, StorageOption
from .study import app as study_app

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SUSPENDED = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(
    help="Let a dialogue model improve itself: SFT, then rounds of generate, reflect and DPO (arXiv 2505.16610).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(study_app, name="study")


File = Annotated[Path, typer.Option("--file", "-f", help="The run file: an EvolutionRun in YAML.")]


@app.command()
def run(file: File, storage: StorageOption = None, output: OutputOption = Output.text) -> None:
    """Run it on this machine, or continue where an earlier call stopped."""
    from evolution_jobs.store.open import open_store

    from ..local.driver import Driver, run_directory
    from ..local.load import local_run
    from ..local.machine import Machine
    from ..local.summary import summarise
    from .closing import print_closing
    from .display import Display

    started = time.monotonic()
    # With --output json, standard output is the document's alone.
    console = open_console(stderr=output is Output.json)
    wanted = local_run(file, storage)
    store = open_store(wanted.spec.storage)
    with run_directory(wanted.spec.storage.uri, wanted.ref.namespace, wanted.ref.name) as directory:
        try:
            with Display(console) as display:
                display.print_line(
                    f"{wanted.ref.namespace}/{wanted.ref.name}: artifacts in {store.uri}, logs in {directory}"
                )
                driver = Driver(wanted, store, Machine.here(), directory, display.print_line)
                status = driver.drive(display.watch)
        except OSError as error:
            # Stages report errors of the store themselves: this is the driver's own directory.
            words = error.strerror or str(error)
            raise TransientError(
                "StateUnwritable", f"{directory}: {words}; free some, or set XDG_STATE_HOME"
            ) from error
        except KeyboardInterrupt:
            console.print("Stopped; finished work is kept. Run the same command to continue.", highlight=False)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        summary = summarise(wanted, status, store, time.monotonic() - started)
    if output is Output.json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        print_closing(console, summary, file)
    if status.phase != "Complete":
        raise typer.Exit(EXIT_SUSPENDED if status.phase == "Suspended" else EXIT_FAILED)


@app.command()
def plan(file: File, storage: StorageOption = None, output: OutputOption = Output.text) -> None:
    """Show a run's stages: cached or to run, with keys and inputs."""
    from ..local.forecast import forecast, print_forecast
    from ..local.load import local_run

    rows = forecast(local_run(file, storage))
    if output is Output.json:
        print(json.dumps(rows, ensure_ascii=False))
    else:
        print_forecast(open_console(), rows)


@app.command()
def validate(
    file: File,
    output: OutputOption = Output.text,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also read the data and the model's files (no weights); show what is trained on."),
    ] = False,
) -> None:
    """Check a run file; list every fault with its field path."""
    found = load_run(file)
    known = {"valid": True, "faults": []}
    if output is Output.text:
        print(f"{file}: valid; {found.metadata.namespace}/{found.metadata.name}")
    if deep:
        from ..local.load import local_run
        from .deep import look, print_survey

        survey = look(local_run(file, None))
        if output is Output.text:
            print_survey(open_console(), survey)
        known |= survey.wire()
    if output is Output.json:
        print(json.dumps(known, ensure_ascii=False))


@app.command()
def status(
    name: Annotated[str, typer.Argument(help="Name of an EvolutionRun on the cluster.")],
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Its namespace.")] = None,
    output: OutputOption = Output.text,
) -> None:
    """Show a run on the cluster: stages, progress, figures, and what delays it."""
    from .cluster import fetch, print_status, read_status

    found = fetch(name, namespace).get("status", {})
    if output is Output.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print_status(open_console(), name, read_status(found))


@app.command()
def retry(
    name: Annotated[str, typer.Argument(help="Name of an EvolutionRun on the cluster.")],
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Its namespace.")] = None,
) -> None:
    """Retry a failed run's failed stages; finished stages stay."""
    from .cluster import request_retry

    request_retry(name, namespace)
    place = f" -n {namespace}" if namespace else ""
    print(f"{name}: retrying failed stages; follow with: evolution status {name}{place}")


@app.command()
def score(
    hypotheses: Annotated[Path, typer.Option(help="Answers to score, one a line.")],
    references: Annotated[Path, typer.Option(help="Human answers, one a line.")],
) -> None:
    """Score answers against references with the figures that evaluate uses; prints one JSON document."""
    from evolution_jobs.metrics.score import score_files

    print(json.dumps(score_files(hypotheses, references), ensure_ascii=False, indent=1))


@app.command()
def compare(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Run files, runs on the cluster, or answers.jsonl; RUN:M2 takes one model."
        ),
    ],
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace of runs on the cluster.")
    ] = None,
    storage: StorageOption = None,
    figures: Annotated[
        str | None, typer.Option("--figures", help="Names of figures, with commas; by default those of the status.")
    ] = None,
    output: OutputOption = Output.text,
) -> None:
    """Compare models on the same rows: paired differences to the first, with 95 % intervals."""
    from evolution_jobs.metrics.compare import compare as compare_models

    from .compare import print_comparison, read_models

    names = [name.strip() for name in figures.split(",")] if figures else None
    found = compare_models(read_models(references, namespace, storage), names)
    if output is Output.json:
        print(json.dumps(found.wire(), ensure_ascii=False))
    else:
        print_comparison(open_console(), found)


def main() -> None:
    """Entry point: a user's mistake becomes one message and an exit code, never a stack trace."""
    # The stages' processes inherit this environment.
    tidy_environment()
    redact_output()
    try:
        app()
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
