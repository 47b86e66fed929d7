"""Writes the file, and says what to do with it."""

from __future__ import annotations

import secrets
import shlex
import sys
from pathlib import Path

import typer
from evolution_jobs.contract.errors import PermanentError

from ...api.validation import RunFileError, load_run
from ..named import RUN_FILES
from ..program import program_name
from ..reach import in_cluster
from .answers import Flags, gather
from .manifest import Answers, manifest

FILE = "evolutionrun.yaml"


def write_run_file(place: Path, flags: Flags, force: bool) -> None:
    """Write a run file at a path, or in a directory, and print the next commands.

    Raises PermanentError `InitExists`, `InitInput`, `InitUnwritable`, and RunFileError if a flag has a wrong value.
    """
    target = place if place.name.endswith(RUN_FILES) else place / FILE
    if target.exists() and not force:
        raise PermanentError("InitExists", f"{target} exists: name another file, or give --force to replace it")
    answers = gather(flags, target, _ask if on_terminal() else None)
    _write(target, manifest(answers))
    print(f"{target}: written")
    for line in next_commands(answers, target):
        print(line)


def on_terminal() -> bool:
    """Whether somebody can answer questions."""
    return sys.stdin.isatty()


def _ask(question: str, default: str | None) -> str:
    return str(typer.prompt(question, default=default, err=True)).strip()


def _write(target: Path, text: str) -> None:
    """Write the file, once it is known to be valid."""
    partial = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.yaml")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, "utf-8")
        load_run(partial)
        partial.replace(target)
    except RunFileError as error:
        raise RunFileError(str(target), error.faults) from None
    except OSError as error:
        raise PermanentError("InitUnwritable", f"{target}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def next_commands(answers: Answers, target: Path) -> list[str]:
    """What to do next, one line each."""
    data, file = answers.upload, shlex.quote(str(target))
    program = program_name()
    check = f"  {program} doctor -f {file}"
    if answers.where == "machine":
        return [
            "Next:",
            f"  {program} validate --deep -f {file}    what it will train on",
            f"{check}    this machine and the storage",
            f"  {program} run -f {file}",
        ]
    lines = ["Next:"]
    if data:
        endpoint = f" --endpoint-url {answers.storage.endpoint}" if answers.storage.endpoint else ""
        whole = " --recursive" if answers.data.uri.endswith("/") else ""
        lines.append(f"  aws s3 cp{whole} {shlex.quote(data)} {answers.data.uri}{endpoint}    Pods read the data there")
        if (service := in_cluster(answers.storage.endpoint or "")) is not None:
            forward = (
                f"kubectl port-forward -n {service.namespace or 'NAMESPACE'} service/{service.name} {service.port}"
            )
            lines.append(
                f"      that address is the cluster's own: first {forward}, and name http://localhost:{service.port}"
            )
    secret = answers.storage.credentials_secret
    if secret:
        keys = "--from-literal=AWS_ACCESS_KEY_ID=... --from-literal=AWS_SECRET_ACCESS_KEY=..."
        lines.append(f"  kubectl create secret generic {secret} {keys}    unless it exists")
    return [
        *lines,
        f"{check} --cluster    the cluster, its GPUs and images",
        f"  kubectl apply -f {file}",
        f"  {program} status {answers.name}",
    ]
