"""`evolution status NAME` and `evolution retry NAME`: a run on the cluster of the current kubeconfig context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import yaml
from evolution_jobs.contract.errors import PermanentError
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from ..api.spec import GROUP, PLURAL, RETRY_ANNOTATION, VERSION
from ..api.status import RunStatus, StageStatus
from .display import amount, one_line


def fetch(name: str, namespace: str | None) -> dict[str, Any]:
    """The EvolutionRun as the API server has it. Raises PermanentError with what to check."""
    api, namespace = _client(namespace)
    with _answers(api, name, namespace):
        found: dict[str, Any] = api.get_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name)
    return found


def request_retry(name: str, namespace: str | None) -> str:
    """Ask the operator to retry failed stages. Returns the token of this request."""
    api, namespace = _client(namespace)
    token = datetime.now(UTC).isoformat(timespec="microseconds")
    patch = {"metadata": {"annotations": {RETRY_ANNOTATION: token}}}
    with _answers(api, name, namespace):
        api.patch_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name, patch)
    return token


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


def print_status(console: Console, name: str, status: RunStatus) -> None:
    """Print the phase, what delays the run, its stages and its figures."""
    console.print(f"[bold]{name}[/bold]  {one_line(status)}", highlight=False)
    for condition in status.conditions:
        if condition.message:
            console.print(f"  {condition.reason}: {condition.message}", highlight=False, markup=False, soft_wrap=True)
    table = Table()
    for column in ("stage", "state", "attempt", "progress", "seconds", "GPU-s", "message"):
        table.add_column(column, overflow="fold")
    for stage in status.stages:
        table.add_row(*_row(stage))
    console.print(table)
    for entry in status.metrics:
        star = " *" if entry.iteration == status.champion else ""
        figures = "  ".join(f"{figure} {value:.4g}" for figure, value in sorted(entry.figures.items()))
        console.print(f"M{entry.iteration}{star}  {figures}", highlight=False, soft_wrap=True)


def _row(stage: StageStatus) -> tuple[str, ...]:
    state = f"{stage.state} (cached)" if stage.cached else stage.state
    seconds, gpu = (f"{value:.0f}" if value is not None else "" for value in (stage.seconds, stage.gpu_seconds))
    return (stage.id, state, str(stage.attempts or ""), amount(stage), seconds, gpu, stage.message or "")


def _client(namespace: str | None) -> tuple[Any, str]:
    """The API of the current context, and the namespace: the given one, or else the context's."""
    try:
        from kubernetes import client, config
    except ModuleNotFoundError as error:
        raise PermanentError(
            "DependencyMissing", "a cluster needs the kubernetes package: pip install 'evolution-operator[operator]'"
        ) from error
    configuration = client.Configuration()
    # Without retries the user gets one message, not the client's warning before each retry.
    configuration.retries = 0
    try:
        config.load_kube_config(client_configuration=configuration)
        _, active = config.list_kube_config_contexts()
    except (config.ConfigException, yaml.YAMLError, OSError) as error:
        raise PermanentError(
            "NoCluster",
            f"no cluster is configured: {' '.join(str(error).split()).rstrip('.')}; set KUBECONFIG to the file that names it "
            "(default: ~/.kube/config), and see `kubectl config get-contexts`",
        ) from error
    return client.CustomObjectsApi(client.ApiClient(configuration)), (
        namespace or active["context"].get("namespace", "default")
    )


@contextmanager
def _answers(api: Any, name: str, namespace: str) -> Iterator[None]:
    """Turn errors of API calls into a PermanentError that says what to check."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError, MaxRetryError

    try:
        yield
    except ApiException as error:
        reasons = {
            401: "the cluster does not accept these credentials",
            403: f"not allowed to read or change EvolutionRuns in namespace {namespace}",
            404: f"no EvolutionRun {name} in namespace {namespace}; `kubectl get evo -A` lists them",
        }
        message = reasons.get(error.status, f"the API server answered {error.status}: {error.reason}")
        raise PermanentError("ClusterRefused", message) from error
    except HTTPError as error:
        cause = error.reason if isinstance(error, MaxRetryError) else error
        host = api.api_client.configuration.host
        raise PermanentError(
            "ClusterUnreachable", f"{host} does not answer ({cause}); check its address and that the server is up"
        ) from error
