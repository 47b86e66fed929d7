"""`evolution status NAME` and `evolution retry NAME`: a run on the cluster of the current kubeconfig context."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.printable import printable
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..api.spec import API_VERSION, PLURAL, RETRY_ANNOTATION
from ..api.status import RunStatus, StageStatus
from .console import say
from .display import amount, one_line
from .kube import Cluster, explained
from .program import program_name


def fetch(name: str, namespace: str | None) -> dict[str, Any]:
    """The EvolutionRun as the API server has it. Raises PermanentError with what to check."""
    return read_run(Cluster(namespace), name)


def read_run(cluster: Cluster, name: str) -> dict[str, Any]:
    """As `fetch`, by a client that is there already."""
    with _explained(cluster, name):
        return cluster.get(_path(cluster, name))


def request_retry(name: str, namespace: str | None) -> str:
    """Ask the operator to retry failed stages. Returns the token of this request."""
    cluster = Cluster(namespace)
    token = datetime.now(UTC).isoformat(timespec="microseconds")
    with _explained(cluster, name):
        cluster.patch(_path(cluster, name), {"metadata": {"annotations": {RETRY_ANNOTATION: token}}})
    return token


def _path(cluster: Cluster, name: str) -> str:
    return f"/apis/{API_VERSION}/namespaces/{cluster.namespace}/{PLURAL}/{name}"


def _explained(cluster: Cluster, name: str) -> AbstractContextManager[None]:
    return explained(
        f"not allowed to read or change EvolutionRuns in namespace {cluster.namespace}",
        f"no EvolutionRun {name} in namespace {cluster.namespace}; `kubectl get evo -A` lists them",
    )


def read_status(document: dict[str, Any]) -> RunStatus:
    """The status of a run on the cluster. Raises PermanentError if another version wrote fields that this one cannot read."""
    try:
        return RunStatus.model_validate(document)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors(include_url=False))
        raise PermanentError(
            "StatusUnreadable",
            f"the operator has another version than this command, which cannot read {fields}: use -o json",
        ) from error


def print_status(console: Console, name: str, namespace: str | None, status: RunStatus) -> None:
    """Print the phase, what delays the run, its stages and its figures, and what to do with a finished run."""
    place = f" -n {namespace}" if namespace else ""
    console.print(f"[bold]{name}[/bold]  {one_line(status)}", highlight=False)
    for condition in status.conditions:
        if condition.message:
            # Messages quote data and logs: a terminal must not obey them.
            say(console, printable(f"  {condition.reason}: {condition.message}"))
    table = Table()
    for column in ("stage", "state", "attempt", "progress", "seconds", "GPU-s", "message"):
        table.add_column(column, overflow="fold")
    for stage in status.stages:
        table.add_row(*(Text(printable(cell)) for cell in _row(stage)))
    console.print(table)
    for entry in status.metrics:
        star = " *" if entry.iteration == status.champion else ""
        figures = "  ".join(f"{figure} {value:.4g}" for figure, value in sorted(entry.figures.items()))
        say(console, printable(f"M{entry.iteration}{star}  {figures}"))
    if status.phase == "Complete":
        model = "the newest model" if status.champion is None else "the champion"
        console.print(f"Talk to {model}: {program_name()} chat {name}{place}", highlight=False, soft_wrap=True)


def _row(stage: StageStatus) -> tuple[str, ...]:
    state = f"{stage.state} (cached)" if stage.cached else stage.state
    seconds, gpu = (f"{value:.0f}" if value is not None else "" for value in (stage.seconds, stage.gpu_seconds))
    return (stage.id, state, str(stage.attempts or ""), amount(stage), seconds, gpu, stage.message or "")
