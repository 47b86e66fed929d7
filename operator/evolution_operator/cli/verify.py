"""`evolution verify` and `evolution sign`: whether a run's results are intact, and who vouches for them."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.printable import printable
from evolution_jobs.store.base import Watch
from rich.console import Console
from rich.filesize import decimal

from ..results.results import Results
from ..verify.findings import BAD, Kind, Verification
from .console import open_console, say
from .exit_codes import EXIT_FAILED
from .named import EndpointOption, NamespaceOption, RunArgument, read_results, reference
from .options import Output, OutputOption, StorageOption

STYLES = {Kind.missing: "red", Kind.changed: "red", Kind.unsigned: "red", Kind.foreign: "yellow"}


def verify(
    run: RunArgument,
    namespace: NamespaceOption = None,
    storage: StorageOption = None,
    endpoint: EndpointOption = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Public key (PEM): every manifest must be signed by its owner.")
    ] = None,
    output: OutputOption = Output.text,
) -> None:
    """Check every manifest and file of a run by its digest; exit code 1 if something is missing or changed."""
    from ..verify.signing import public_key
    from ..verify.walk import verify as verify_results

    signer = public_key(key) if key is not None else None
    results = _something(read_results(run, namespace, storage, endpoint=endpoint))
    console = open_console(stderr=output is Output.json)
    with _bar(console, results) as watch:
        found = verify_results(results, signer, watch)
    if output is Output.json:
        # Names of foreign objects may hold what no terminal and no encoding can write.
        print(json.dumps(_document(results, found)))
    else:
        _print(console, results, found, checked=key is not None)
    raise typer.Exit(0 if found.intact else EXIT_FAILED)


def sign(
    run: RunArgument,
    key: Annotated[Path, typer.Option("--key", help="Private key (PEM): Ed25519, ECDSA or RSA.")],
    namespace: NamespaceOption = None,
    storage: StorageOption = None,
    endpoint: EndpointOption = None,
    output: OutputOption = Output.text,
) -> None:
    """Verify a run's results, then sign the provenance of each manifest and store it beside the manifest."""
    from ..verify.signing import private_key
    from ..verify.signing import sign as sign_statement
    from ..verify.walk import provenance_of, provenance_path, verify_files

    signer = private_key(key)
    results = _something(read_results(run, namespace, storage, endpoint=endpoint))
    console = open_console(stderr=output is Output.json)
    with _bar(console, results) as watch:
        found = verify_files(results, watch)
    if not found.intact:
        _print_findings(console, found)
        raise PermanentError("NotIntact", f"{results.name}: something is missing or changed, so nothing is signed")
    places = []
    for manifest in results.manifests.values():
        place = provenance_path(manifest.key)
        unsigned, earlier = provenance_of(results, manifest)
        results.store.put_bytes(sign_statement(unsigned, signer, earlier), place)
        places.append(place)
    if output is Output.json:
        print(json.dumps({"signed": places, "keyId": signer.public_key.keyid}))
        return
    say(console, f"{results.namespace}/{results.name}: {len(places)} manifests signed, key {signer.public_key.keyid}")
    say(console, f"  check it: evolution verify {reference(run, namespace, storage, endpoint)} --key PUBLIC_KEY")


def _something(results: Results) -> Results:
    """The results, if there are any: nothing must not pass for intact."""
    if not results.manifests and not results.faults:
        raise PermanentError("ArtifactMissing", f"{results.store.uri} has no finished stage of run {results.name}")
    return results


def _bar(console: Console, results: Results) -> AbstractContextManager[Watch]:
    from ..verify.walk import bytes_to_read
    from .transfer import transfer_bar

    return transfer_bar(console, results.name, bytes_to_read(results))


def _document(results: Results, found: Verification) -> dict[str, object]:
    return {
        "run": {"namespace": results.namespace, "name": results.name},
        "intact": found.intact,
        "stages": [asdict(stage) for stage in found.stages],
        "signed": found.signed,
        "findings": [asdict(finding) for finding in found.findings],
    }


def _print(console: Console, results: Results, found: Verification, checked: bool) -> None:
    own = f"{results.namespace}/{results.name}"
    files, size = sum(stage.files for stage in found.stages), sum(stage.size for stage in found.stages)
    say(console, f"{own}: {len(found.stages)} stages, {files} files, {decimal(size)} in {results.store.uri}")
    for run, count in Counter(stage.computed_by for stage in found.stages if stage.computed_by != own).items():
        say(console, printable(f"{count} stages were computed by {run}"))
    _print_findings(console, found)
    if found.signed and not checked:
        say(console, f"{len(found.signed)} manifests are signed; name the public key with --key to check that")
    counts = Counter(finding.kind for finding in found.findings)
    bad = [f"{counts[kind]} {kind}" for kind in BAD if counts[kind]]
    if found.intact:
        signed = f", {len(found.signed)} signatures valid" if checked else ""
        say(console, f"intact{signed}", "green")
    else:
        again = "A run that is run again repeats the stages whose files are missing or changed"
        repair = again if counts[Kind.missing] or counts[Kind.changed] else "evolution sign signs what is intact"
        say(console, f"not {'intact' if repair is again else 'signed by this key'}: {', '.join(bad)}. {repair}", "red")


def _print_findings(console: Console, found: Verification) -> None:
    for finding in found.findings:
        stage = f"{finding.stage}: " if finding.stage else ""
        say(console, printable(f"{finding.kind:<9} {stage}{finding.message}"), STYLES.get(finding.kind))
