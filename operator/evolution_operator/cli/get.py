"""`evolution get`: list what a run has made, by readable names, and copy it out of the storage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.names import REPORT
from evolution_jobs.printable import printable
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from ..results.choice import BASE, CHAMPION, require_champion
from ..results.copies import Copy, fetch, is_directory, missing, planned
from ..results.outputs import output_error
from ..results.results import Artifact, Results
from ..results.weights import base_of
from .console import open_console, say
from .named import EndpointOption, NamespaceOption, RunArgument, read_results, reference
from .options import Output, StorageOption

SHOWN_DIGEST = 12


def get(
    run: RunArgument,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARTIFACT",
            help="M2, pairs-1, answers-2, ..., champion, base (the base model, if the run has a copy), or report. "
            "Without one, all are listed.",
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--directory", "-o", help="Copy into this directory; a single model's files go right into it."),
    ] = None,
    namespace: NamespaceOption = None,
    storage: StorageOption = None,
    endpoint: EndpointOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that differ.")] = False,
    output: Annotated[Output, typer.Option("--output", help="text, or one JSON document.")] = Output.text,
) -> None:
    """List a run's models, pairs and answers by name, or copy them here with their digests checked."""
    if not names and (directory is not None or force):
        raise PermanentError("ArtifactMissing", "no artifact is named: name what to copy, such as M0 or report")
    results = read_results(run, namespace, storage, endpoint=endpoint)
    if not names:
        _list(results, output, reference(run, namespace, storage, endpoint))
        return
    artifacts = {each.name: each for each in (_artifact(results, name) for name in names if name != "report")}
    copies = [
        replace(copy, documents=_provenance(results, copy))
        for copy in planned(results.name, list(artifacts.values()), directory)
    ]
    # All conflicts are found before anything is copied.
    lacking = {copy.artifact.name: missing(copy, force) for copy in copies}
    console = open_console(stderr=output is Output.json)
    named = reference(run, namespace, storage, endpoint)
    done: list[dict[str, Any]] = []
    for copy in copies:
        _copy(console, results, copy, lacking[copy.artifact.name])
        written = bool(lacking[copy.artifact.name])
        done.append({"name": copy.artifact.name, "path": str(copy.path), "written": written})
        _tell(console, results, copy, written, named)
    if "report" in names:
        path = _report(results, directory)
        done.append({"name": "report", "path": str(path), "written": True})
        say(console, f"{path}: the report of {results.name}")
    if output is Output.json:
        print(json.dumps({"copied": done}, ensure_ascii=False))


def _artifact(results: Results, name: str) -> Artifact:
    if name == BASE:
        base = base_of(results)
        if base.reference is not None:
            words = f"base: run {results.name} has no copy; it reads the base model from {printable(base.reference)}"
            raise PermanentError("ArtifactMissing", words)
        return Artifact(BASE, results.manifests["prepare"], base.output)
    return results.artifact(require_champion(results) if name == CHAMPION else name)


def _list(results: Results, output: Output, named: str) -> None:
    artifacts = list(results.artifacts.values())
    if output is Output.json:
        run = {"namespace": results.namespace, "name": results.name, "champion": results.champion}
        print(json.dumps({"run": run, "artifacts": [_document(each) for each in artifacts]}, ensure_ascii=False))
        return
    console = open_console()
    if artifacts:
        table = Table(title=f"{results.namespace}/{results.name} in {results.store.uri}", title_justify="left")
        for column in ("artifact", "stage", "files", "size", "digest"):
            table.add_column(column, justify="right" if column in ("files", "size") else "left")
        for each in artifacts:
            known = _document(each)
            size, digest = decimal(known["bytes"]), known["digest"][:SHOWN_DIGEST]
            # A manifest may be foreign.
            made_by = Text(printable(known["stage"]))
            name = f"{each.name} *" if each.name == results.champion else each.name
            table.add_row(name, made_by, str(len(known["files"])), size, digest)
        console.print(table)
        names = [*results.models[-1:], *(["pairs-1"] if "pairs-1" in results.artifacts else []), "report"]
        chosen = f"; champion is {results.champion}" if results.champion else ""
        say(console, f"copy: evolution get {named} {' '.join(names)}", "dim")
        say(console, f"base is the base model, if the run has a copy{chosen}", "dim")
    else:
        say(console, f"{results.namespace}/{results.name}: no stage has finished in {results.store.uri}")
    for stage, fault in results.faults.items():
        say(console, printable(f"{stage}: {fault}"), "red")


def _document(artifact: Artifact) -> dict[str, Any]:
    files = [file.wire() for file in artifact.output.files]
    known = {"name": artifact.name, "stage": artifact.manifest.stage, "key": artifact.manifest.key}
    return known | {"digest": artifact.output.digest, "bytes": sum(file["size"] for file in files), "files": files}


def _copy(console: Console, results: Results, copy: Copy, wanted: list[str]) -> None:
    from .transfer import transfer_bar

    size = sum(file.size for file in copy.artifact.output.files if file.path in wanted)
    if wanted:
        with transfer_bar(console, copy.artifact.name, size) as watch:
            fetch(results, copy, wanted, watch)


def _provenance(results: Results, copy: Copy) -> dict[str, bytes]:
    """What goes beside a model's files: where it comes from, and the signed form of that if there is one."""
    from ..verify.findings import PROVENANCE
    from ..verify.provenance import UNSIGNED
    from ..verify.walk import provenance_of

    if copy.artifact.name == BASE or not is_directory(copy.artifact):
        return {}
    unsigned, signed = provenance_of(results, copy.artifact.manifest)
    documents = {UNSIGNED: unsigned} | ({PROVENANCE: signed} if signed is not None else {})
    # A foreign model may have a file of this name. The model is copied as it is.
    return {name: text for name, text in documents.items() if name not in copy.files}


def _tell(console: Console, results: Results, copy: Copy, written: bool, run: str) -> None:
    files = copy.artifact.output.files
    if written:
        count = f"{len(files)} files, " if len(files) > 1 else ""
        words = f"{copy.artifact.name} of {results.name}, {count}{decimal(sum(file.size for file in files))}"
    else:
        words = f"{copy.artifact.name} is there already and intact"
    say(console, f"{copy.path}: {words}")
    if copy.artifact.name in results.models and is_directory(copy.artifact):
        say(
            console, f'  load it: peft.PeftModel.from_pretrained(model, "{copy.path}"), where model is {_base(results)}'
        )
        say(console, f"  ask it:  evolution chat {run} --model {copy.artifact.name}")


def _base(results: Results) -> str:
    """The run's base model: pinned if the hub has it, else where its copy is."""
    prepare = results.manifests.get("prepare")
    output = prepare.outputs.get("model") if prepare else None
    if output is not None and output.files:
        uri = f"{results.store.uri}/{output.files[0].location.removesuffix(f'/{output.files[0].path}')}"
    elif output is not None and output.reference:
        # A manifest may be foreign.
        uri = printable(output.reference)
    else:
        uri = results.spec.base_model.uri if results.spec else "the run's base model"
    # transformers takes a path, not its URI.
    return uri.removeprefix("file://")


def _report(results: Results, directory: Path | None) -> Path:
    """Write the run's report. Raises what the report raises."""
    from ..reporting import load_writer

    write_report = load_writer()
    path = directory / REPORT if directory is not None else Path(f"{results.name}-{REPORT}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(error, path) from error
    write_report(results, path)
    return path
