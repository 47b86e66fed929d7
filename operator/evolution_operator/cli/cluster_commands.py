"""Commands on a cluster and its runs: doctor, status, logs, retry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from evolution_jobs.contract.errors import PermanentError

from .completion import run_names, stage_names
from .console import open_console
from .exit_codes import EXIT_FAILED
from .named import RUN_FILES
from .options import Output, OutputOption, StorageOption
from .program import program_name

Name = Annotated[str, typer.Argument(help="Name of an EvolutionRun on the cluster.", autocompletion=run_names)]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Its namespace.")]


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


def status(
    name: Name,
    namespace: Namespace = None,
    output: OutputOption = Output.text,
) -> None:
    """Show a run on the cluster: stages, progress, figures, and what delays it."""
    from .cluster import fetch, print_status, read_status

    if name.endswith(RUN_FILES):
        raise PermanentError("RunUnknown", f"{name} is a run file: `evolution plan -f {name}` shows its stages")
    found = fetch(name, namespace).get("status", {})
    if output is Output.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        print_status(open_console(), name, namespace, read_status(found))


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


def retry(name: Name, namespace: Namespace = None) -> None:
    """Retry a failed run's failed stages; finished stages stay."""
    from .cluster import request_retry

    request_retry(name, namespace)
    place = f" -n {namespace}" if namespace else ""
    print(f"{name}: retrying failed stages; follow with: {program_name()} status {name}{place}")
