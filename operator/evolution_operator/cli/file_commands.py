"""Commands on a run file: init, validate, plan, run."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..api.experiment import Experiment, is_experiment, load_runs
from ..api.spec import EvolutionRun
from .console import open_console, say
from .exit_codes import EXIT_INTERRUPTED, exit_code
from .options import INTERRUPTED, Output, OutputOption, StorageOption

if TYPE_CHECKING:
    from ..planner.observed import Run

File = Annotated[Path, typer.Option("--file", "-f", help="The run file: an EvolutionRun in YAML.")]
RunsFile = Annotated[Path, typer.Option("--file", "-f", help="The run file, or an experiment, in YAML.")]
OpenOption = Annotated[bool, typer.Option("--open", help="Show the run as a live page in the browser.")]
PortOption = Annotated[
    int | None,
    typer.Option(
        "--port", min=0, max=65535, help="Port of the live page, on this machine only; by default a free one."
    ),
]


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
    """Write a first run file, with comments. Asks what no option says.

    Without a terminal it takes the defaults, and the only data file here; it needs --data if there is none or more than one.
    """
    from .init.answers import Flags
    from .init.command import write_run_file

    flags = Flags(where, model, data, layout, name, storage, endpoint, credentials_secret, gpus)
    write_run_file(place, flags, force)


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
                summary = drive(wanted, console, page.watch).summary
                page.reported(summary.get("report"))
            else:
                summary = drive(wanted, console).summary
    except KeyboardInterrupt:
        console.print(INTERRUPTED, highlight=False)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if output is Output.json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        print_closing(console, summary, file, storage)
    raise typer.Exit(exit_code([summary["phase"]]))


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
    from ..local.load import local_arms, local_run_of
    from ..planner.sharing import prepare_key, shared_with
    from .deep import look, print_survey

    def shown(run: Run) -> dict[str, Any]:
        survey = look(run)
        if output is Output.text:
            print_survey(open_console(), survey)
        return survey.wire()

    if not isinstance(found, Experiment):
        return shown(local_run_of(found, file.resolve().parent))
    runs = local_arms(file, None)
    shared = shared_with({variant: prepare_key(run) for variant, run in runs.items()})
    surveys: dict[str, Any] = {}
    for variant, run in runs.items():
        first = shared[variant].get("prepare")
        if output is Output.text:
            print(f"\n{variant}: reads what {first} reads" if first else f"\n{variant}:")
        surveys[variant] = {"readsAs": first} if first else shown(run)
    return {"arms": surveys}
