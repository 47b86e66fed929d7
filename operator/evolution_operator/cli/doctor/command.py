"""Runs the checks, and prints them."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path

from evolution_jobs.contract.credentials import credential
from evolution_jobs.contract.errors import PermanentError, StageError
from evolution_jobs.printable import printable
from evolution_jobs.store.open import open_store
from evolution_jobs.store.trial import try_store
from rich.console import Console
from rich.text import Text

from ...api.spec import EvolutionRun, EvolutionRunSpec
from ...api.validation import load_run
from ...local.driver import log_directory
from ...local.load import local_run_of
from ...planner.observed import Run
from ..console import open_console
from .check import Check, failed, ok, skipped, summary
from .see_machine import DISTRIBUTION, see_machine
from .storage import check_storage
from .where import meant_for_cluster

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


def examine(file: Path | None, on_cluster: bool | None, namespace: str | None, pods: bool) -> Iterator[Check]:
    """The checks, one after the other. With `on_cluster` None, the run file tells where it is to run.

    Raises RunFileError.
    """
    run = load_run(file) if file else None
    if file and run:
        yield ok("run file", f"{file} is valid; `validate --deep` also reads the data")
    if on_cluster is None:
        on_cluster = run is not None and meant_for_cluster(run)
    if on_cluster:
        yield from _on_cluster(run, namespace, pods)
    else:
        yield from _on_machine(local_run_of(run, file.resolve().parent) if file and run else None)


def _on_machine(run: Run | None) -> Iterator[Check]:
    from .machine import check_machine
    from .model import check_model, see_model

    if run is None:
        yield from check_machine(see_machine(log_directory("file:///", "", "")), None)
        yield skipped(
            "storage, base model", "no run file is named", "name one with -f FILE; `evolution init` writes one"
        )
        return
    model = see_model(run.spec.base_model, run.spec.storage)
    yield from check_machine(see_machine(log_directory(run.spec.storage.uri, "", "")), model.weights)
    yield check_model(model)
    yield from _endpoints(run.spec)
    yield from _tracker(run.spec)
    try:
        yield from check_storage(try_store(open_store(run.spec.storage)))
    except StageError as error:
        yield failed("storage", f"{error.reason}: {error}")


def _endpoints(spec: EvolutionRunSpec) -> Iterator[Check]:
    """The API keys of endpoints that the run asks."""
    asked = {"teacher": spec.teacher, "judge": spec.judge, "reward.judge": spec.reward.judge if spec.reward else None}
    for field, endpoint in asked.items():
        if endpoint is None or endpoint.key_variable is None:
            continue
        try:
            found = credential(endpoint.key_variable)
        except StageError as error:
            yield failed(f"API key of {field}", str(error))
            continue
        words = f"variable {endpoint.key_variable}"
        yield (
            ok(f"API key of {field}", words)
            if found
            else failed(f"API key of {field}", f"{words} is not set", "export it")
        )


def _tracker(spec: EvolutionRunSpec) -> Iterator[Check]:
    """The library of the tracker that the run logs to."""
    from ...tracking.trackers import require

    if spec.tracking is None:
        return
    try:
        require(spec.tracking)
    except PermanentError as error:
        yield failed("tracking", str(error))
        return
    yield ok("tracking", f"{spec.tracking} is installed")


def _on_cluster(run: EvolutionRun | None, namespace: str | None, pods: bool) -> Iterator[Check]:
    from ..kube import ApiError, Cluster

    own = namespace or (run.metadata.namespace if run and "namespace" in run.metadata.model_fields_set else None)
    try:
        # It says what to install where a package is missing. The imports below need the same packages.
        cluster = Cluster(own)
    except PermanentError as error:
        yield failed("cluster", f"{error.reason}: {error}")
        return
    from .cluster import check_cluster
    from .needs import needs_of
    from .nodes import check_gpu_nodes, check_image, check_placement
    from .objects import check_objects, named
    from .see_cluster import ask, operator_settings, see_cluster, see_objects

    try:
        seen = see_cluster(cluster)
    except PermanentError as error:
        yield failed("cluster", f"{error.reason}: {error}")
        return
    yield from check_cluster(seen, importlib.metadata.version(DISTRIBUTION))
    settings = operator_settings(seen)
    answer = ask(cluster, "/api/v1/nodes")
    nodes = None if isinstance(answer, ApiError) else answer["items"]
    if nodes is None:
        yield skipped("nodes", "this user may not list nodes, so GPUs and images are not known", "ask an administrator")
    if run is None:
        if nodes is not None:
            yield check_gpu_nodes(nodes)
            yield check_image(settings.stage_image, nodes)
        yield skipped("storage, Secrets", "no run file is named", "name one with -f FILE; `evolution init` writes one")
        return
    needs = needs_of(run.spec, settings)
    yield from check_objects(needs, see_objects(cluster, named(needs)), cluster.namespace)
    for need in needs.pods if nodes is not None else ():
        yield check_placement(need, nodes or [])
    for image in dict.fromkeys(need.image for need in needs.pods) if nodes is not None else ():
        yield check_image(image, nodes or [])
    if not pods:
        words = "stages reach it from inside the cluster"
        yield skipped("storage", words, "--pods tries it there, with one short Pod")
        return
    from .probe_pod import probe_pod, try_in_pod

    template = next(need.template for need in needs.pods if "prepare" in need.kinds)
    yield from try_in_pod(cluster, probe_pod(template, run.spec.storage, cluster.namespace))


def print_checks(checks: Iterator[Check], as_json: bool) -> bool:
    """Print each check as soon as it is made; as JSON, all at the end. Returns whether none failed."""
    console = open_console()
    done = []
    for check in checks:
        done.append(check)
        if not as_json:
            _print(console, check)
    if as_json:
        document = {"ok": all(check.state != "failed" for check in done), "checks": [check.wire() for check in done]}
        print(json.dumps(document, ensure_ascii=False))
    else:
        console.print(f"\n{summary(done)}", highlight=False)
    return all(check.state != "failed" for check in done)


def _print(console: Console, check: Check) -> None:
    line = Text()
    line.append(f"{check.state:<8}", COLOURS[check.state])
    line.append(f" {printable(check.name)}: {printable(check.found)}")
    console.print(line, soft_wrap=True)
    if check.remedy and check.state != "ok":
        console.print(
            Text(f"         → {printable(check.remedy)}", "bold" if check.state == "failed" else ""), soft_wrap=True
        )
