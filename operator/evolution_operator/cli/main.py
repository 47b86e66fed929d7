"""The `evolution` command: its subcommands, and how errors end it."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from evolution_jobs.contract.credentials import tidy_environment
from evolution_jobs.contract.errors import StageError
from evolution_jobs.redaction import redact_output

from ..api.experiment import Experiment, is_experiment, load_runs
from ..api.spec import EvolutionRun
from ..api.validation import RunFileError
from .chat import chat
from .completion import run_names, stage_names
from .console import open_console, say
from .dashboard import dashboard
from .exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, exit_code
from .experiment import app as experiment_app
from .export import export
from .figures import figures as figures_command
from .get import get
from .options import INTERRUPTED, Output, OutputOption, StorageOption
from .program import is_plugin, program_name
from .report import report
from .study import app as study_app
from .track import track as track_command
from .verify import sign, verify

if TYPE_CHECKING:
    from ..planner.observed import Run

app = typer.Typer(
    help="Let a dialogue model improve itself: SFT, then rounds of generate, reflect and DPO (arXiv 2505.16610).",
    no_args_is_help=True,
    # kubectl completes its plugins itself (`kubectl_complete-evo`).
    add_completion=not is_plugin(),
    pretty_exceptions_enable=False,
)
app.add_typer(experiment_app, name="experiment")
app.add_typer(study_app, name="study")
app.command()(report)
app.command()(chat)
app.command()(export)
app.command("figures")(figures_command)
app.command("track")(track_command)


File = Annotated[Path, typer.Option("--file", "-f", help="The run file: an EvolutionRun in YAML.")]
RunsFile = Annotated[Path, typer.Option("--file", "-f", help="The run file, or an experiment, in YAML.")]
Name = Annotated[str, typer.Argument(help="Name of an EvolutionRun on the cluster.", autocompletion=run_names)]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Its namespace.")]


OpenOption = Annotated[bool, typer.Option("--open", help="Show the run as a live page in the browser.")]
PortOption = Annotated[
    int | None,
    typer.Option(
        "--port", min=0, max=65535, help="Port of the live page, on this machine only; by default a free one."
    ),
]


@app.command()
def run(
    file: File,
    storage: StorageOption = None,
    output: OutputOption = Output.text,
    open_: OpenOption = False,
    port: PortOption = None,
) -> None:
    """Run it on this machine, or continue where an earlier call stopped."""
    from ..local.load import local_run
    from .closing import print_closing
    from .drive import drive
    from .live import live_page

    # With --output json, standard output is the document's alone.
    console = open_console(stderr=output is Output.json)
    wanted = local_run(file, storage)
    try:
        with ExitStack() as stack:
            if open_ or port is not None:
                page = stack.enter_context(live_page(wanted, port or 0, open_, partial(say, console)))
                summary = drive(wanted, console, page.watch)
                page.reported(summary.get("report"))
            else:
                summary = drive(wanted, console)
    except KeyboardInterrupt:
        console.print(INTERRUPTED, highlight=False)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if output is Output.json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        print_closing(console, summary, file, storage)
    raise typer.Exit(exit_code([summary["phase"]]))


@app.command()
def plan(file: RunsFile, storage: StorageOption = None, output: OutputOption = Output.text) -> None:
    """Show the stages of a run or experiment: cached or to run, with keys and inputs."""
    from ..local.forecast import forecast, forecast_arms, print_forecast
    from ..local.load import local_arms, local_run
    from .arms import print_arms_forecast

    if is_experiment(file):
        arms = forecast_arms(local_arms(file, storage))
        if output is Output.json:
            print(json.dumps(arms, ensure_ascii=False))
        else:
            print_arms_forecast(open_console(), arms)
        return
    rows = forecast(local_run(file, storage))
    if output is Output.json:
        print(json.dumps(rows, ensure_ascii=False))
    else:
        print_forecast(open_console(), rows)


@app.command()
def validate(
    file: RunsFile,
    output: OutputOption = Output.text,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also read the data and the model's files (no weights); show what is trained on."),
    ] = False,
) -> None:
    """Check a run file or an experiment; list every fault with its field path."""
    found = load_runs(file)
    known: dict[str, Any] = {"valid": True, "faults": []}
    if output is Output.text:
        if isinstance(found, Experiment):
            runs = ", ".join(arm.run.metadata.name for arm in found.arms)
            print(f"{file}: valid; {found.namespace}/{found.name}, {len(found.arms)} runs: {runs}")
        else:
            print(f"{file}: valid; {found.metadata.namespace}/{found.metadata.name}")
    if deep:
        known |= _look(file, found, output)
    if output is Output.json:
        print(json.dumps(known, ensure_ascii=False))


def _look(file: Path, found: EvolutionRun | Experiment, output: Output) -> dict[str, Any]:
    """What the run will train on; for an experiment, by variant, what each arm does that reads what no earlier one reads."""
    from ..local.load import local_arms, local_run
    from ..planner.sharing import prepare_key, shared_with
    from .deep import look, print_survey

    def shown(run: Run) -> dict[str, Any]:
        survey = look(run)
        if output is Output.text:
            print_survey(open_console(), survey)
        return survey.wire()

    if not isinstance(found, Experiment):
        return shown(local_run(file, None))
    runs = local_arms(file, None)
    shared = shared_with({variant: prepare_key(run) for variant, run in runs.items()})
    surveys: dict[str, Any] = {}
    for variant, run in runs.items():
        first = shared[variant].get("prepare")
        if output is Output.text:
            print(f"\n{variant}: reads what {first} reads" if first else f"\n{variant}:")
        surveys[variant] = {"readsAs": first} if first else shown(run)
    return {"arms": surveys}


@app.command()
def init(
    place: Annotated[Path, typer.Argument(metavar="[PATH]", help="File to write, or its directory.")] = Path(),
    where: Annotated[str | None, typer.Option("--where", help="machine (default) or cluster.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Base model: hf://owner/model, a directory; default: a small one.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Dialogues: a file, hf://owner/dataset or s3://bucket/key.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--format", help="Their format; a file's own records tell it, if it is known.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run; default: that of the directory.")] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", help="Where results go; default: runs beside the file, or the chart's MinIO."),
    ] = None,
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="URL of the S3 service; default: AWS.")] = None,
    credentials_secret: Annotated[
        str | None, typer.Option("--credentials-secret", help="Secret with the S3 credentials, on a cluster.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option("--gpus", min=0, help="GPUs of each Pod, on a cluster; default: 1.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a first run file, with comments. Asks what no option says; without a terminal, takes the defaults."""
    from .init.answers import Flags
    from .init.command import write_run_file

    flags = Flags(where, model, data, layout, name, storage, endpoint, credentials_secret, gpus)
    write_run_file(place, flags, force)


@app.command()
def doctor(
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A run file: also checks what it needs.")] = None,
    cluster: Annotated[
        bool | None,
        typer.Option("--cluster/--machine", help="What to check; else the run file tells where it is to run."),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="The run's namespace; means --cluster.")
    ] = None,
    pods: Annotated[
        bool, typer.Option("--pods", help="Also start one short Pod that tries image and storage; means --cluster.")
    ] = False,
    output: OutputOption = Output.text,
) -> None:
    """Check this machine, or a cluster, before the first run: packages, GPUs, storage, rights, images."""
    from .doctor.command import examine, print_checks

    on_cluster = True if pods or namespace is not None else cluster
    healthy = print_checks(examine(file, on_cluster, namespace, pods), output is Output.json)
    raise typer.Exit(0 if healthy else EXIT_FAILED)


@app.command()
def status(
    name: Name,
    namespace: Namespace = None,
    output: OutputOption = Output.text,
) -> None:
    """Show a run on the cluster: stages, progress, figures, and what delays it."""
    from .cluster import fetch, print_status, read_status

    found = fetch(name, namespace).get("status", {})
    if output is Output.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print_status(open_console(), name, namespace, read_status(found))


@app.command()
def logs(
    name: Annotated[
        str, typer.Argument(help="Name of an EvolutionRun on the cluster, or a run file.", autocompletion=run_names)
    ],
    stage: Annotated[
        str | None,
        typer.Argument(
            help="Id of a stage, such as sft or dpo-2. Without it: the one that runs, or has failed, or ended last.",
            autocompletion=stage_names,
        ),
    ] = None,
    namespace: Namespace = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print what is added until the stage or run ends.")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="Number of the attempt; else the newest.")
    ] = None,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="The log before the newest one.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="Lines from the end of each log; else all.")] = None,
    storage: StorageOption = None,
) -> None:
    """Print the logs of a stage: its Pods on the cluster, or its processes on this machine."""
    from .logs.choice import Wanted
    from .logs.command import print_logs

    print_logs(name, Wanted(stage, attempt, previous, tail), namespace, storage, follow)


@app.command()
def retry(name: Name, namespace: Namespace = None) -> None:
    """Retry a failed run's failed stages; finished stages stay."""
    from .cluster import request_retry

    request_retry(name, namespace)
    place = f" -n {namespace}" if namespace else ""
    print(f"{name}: retrying failed stages; follow with: {program_name()} status {name}{place}")


app.command()(get)
app.command()(verify)
app.command()(sign)
app.command()(dashboard)


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
            metavar="RUN...",
            help="Run files, experiments, runs on the cluster, or answers.jsonl; RUN:M2 takes one model.",
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
